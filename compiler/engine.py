"""A bundle, verified and loaded: a callable over numpy arrays."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from rtc.compiler import bundle
from rtc.compiler.core.data import Array, Preprocess
from rtc.compiler.core.errors import DataError, MachineError
from rtc.compiler.core.target import BuildRequest
from rtc.compiler.core.unit import TensorSpec


class Engine:
    """The engine of a verified bundle; a context manager.

        with load("build/lenet5-mnist/cpu") as engine:
            logits = engine(engine.preprocess(images))

    Attributes:
        manifest: what the bundle says of itself.
        preprocess: from raw samples to what the engine takes.
    """

    def __init__(self, verified: bundle.Verified) -> None:
        from rtc.targets import loader

        self.manifest = verified.manifest
        self.preprocess: Preprocess = self.manifest.preprocess
        entry = self.manifest.engine
        profile = loader.profile(self.manifest.target)
        backend = loader.backend(entry.backend)
        runnable = backend.runnable(profile)
        if not runnable.ok:
            raise MachineError(
                f"this engine does not run here: {runnable.missing}",
                where=str(verified.path),
                expected=f"{profile.name} with {entry.runtime}",
                fix=runnable.fix,
                id="not-runnable",
            )
        request = BuildRequest(profile, entry.batches, entry.threads)
        self._runner = backend.load(verified.engine, request)

    @property
    def input(self) -> TensorSpec:
        """What the engine takes."""
        return self.manifest.signature.inputs[0]

    def __call__(self, inputs: Array) -> Array:
        """Run the engine: preprocessed samples (N, …) in, logits (N, classes) out.

        Raises:
            DataError: another shape or type than the engine takes.
        """
        _check(self.input, inputs)
        outputs = self._runner.run({self.input.name: inputs})
        return outputs[self.manifest.signature.outputs[0].name]

    def close(self) -> None:
        """Free what the runtime holds."""
        self._runner.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def load(path: str | Path) -> Engine:
    """Verify a bundle and load its engine; the bytes that are loaded are those that were checked.

    Args:
        path: a bundle, its `latest` link, or the folder of a target.

    Raises:
        IntegrityError: the bundle is not exactly what was published.
        MachineError: the engine does not run on this machine.
    """
    return Engine(bundle.verify(Path(path)))


def _check(spec: TensorSpec, inputs: Array) -> None:
    fits = len(inputs.shape) == len(spec.shape) and all(
        isinstance(size, str) or size == seen
        for size, seen in zip(spec.shape, inputs.shape, strict=True)
    )
    if not fits or str(inputs.dtype) != spec.dtype:
        raise DataError(
            "these inputs do not fit the engine",
            where=spec.name,
            seen=f"{inputs.dtype} {inputs.shape}",
            expected=f"{spec.dtype} ({', '.join(map(str, spec.shape))})",
            fix="raw samples go through engine.preprocess first",
            id="input-shape",
        )
