"""A bundle, verified and loaded: a callable over numpy arrays."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from rtc.compiler.bundle import bundles
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.closing import Closing
from rtc.compiler.core.data import Preprocess, Split, filled
from rtc.compiler.core.errors import DataError, MachineError
from rtc.compiler.core.naming import REFERENCE
from rtc.compiler.core.outputs import OutputKind
from rtc.compiler.core.target import Backend, BuildRequest, DeviceProfile
from rtc.compiler.core.unit import TensorSpec
from rtc.compiler.measure import fidelity
from rtc.compiler.measure.provenance import kernels_of
from rtc.compiler.storage import sealed

GRAPH, FLOAT = "graph.onnx", "float.onnx"
"""Files of a bundle: what its engine was built from, and the float model behind that."""


class Engine(Closing):
    """The engine of a verified bundle; a context manager.

        with load("build/lenet5-mnist/cpu") as engine:
            logits = engine(engine.preprocess(images))

    Attributes:
        manifest: what the bundle says of itself.
        output: what it gives for each class: logits, probabilities or their logarithm. `as_logits`
            and `log_probabilities` of `rtc.compiler.core.outputs` read either.
        preprocess: from raw samples to what the engine takes.
        device: the device that it was compiled for.
        runtime: what runs it here, "onnxruntime 1.31.1". An engine that is a graph takes other
            versions than the manifest's, which it was built and measured with.
    """

    def __init__(self, verified: bundles.Verified) -> None:
        backend, request = admit(verified)
        self.manifest = verified.manifest
        self.preprocess: Preprocess = self.manifest.preprocess
        self.output: OutputKind = self.manifest.output
        runtime = self.manifest.engine.runtime.partition(" ")[0]
        self.runtime = f"{runtime} {backend.available().version}"
        self.device = request.profile
        here = kernels_of(self.runtime, request.profile.kind)
        held = self.manifest.engine.held_on == here
        self._held = set(request.forms) if held else set()
        self._probe = _stored_probe(verified)
        self._runner = backend.load(verified.engine, request)

    @property
    def batches(self) -> tuple[int, int, int]:
        """The smallest batch that it takes, the one that it was built for, and the largest."""
        return self.manifest.engine.batches

    @property
    def input(self) -> TensorSpec:
        """What the engine takes."""
        return self.manifest.signature.inputs[0]

    def __call__(self, inputs: Array) -> Array:
        """Run the engine: preprocessed samples (N, …) in, (N, classes) out; see `output`.

        Of a batch that the engine was not held against its graph at, on this kind of processor and
        with this version of the runtime, the first call does that, and takes longer. It is held on
        samples that the bundle brings, whatever it is called with; on none where it brings none.

        Fewer samples than the smallest batch are taken again until they fill it.

        Raises:
            DataError: another shape or type than the engine takes, or a batch that it was not
                built for.
            BuilderError: it computes something else than its graph at this batch, on this machine
                ("engine-differs").
        """
        smallest, _, largest = self.batches
        _check(self.input, inputs)
        _check_batch(len(inputs), largest)
        batch = filled(inputs, smallest)
        if len(batch) not in self._held:
            self.hold(self._probe, (len(batch),))
        outputs = self._runner.run({self.input.name: batch})
        return outputs[self.manifest.signature.outputs[0].name][: len(inputs)]

    def hold(self, known: fidelity.Probe | None, batches: Iterable[int]) -> None:
        """Hold the engine to what its graph gives for some samples, at every one of these batches.

        Raises:
            BuilderError: it computes something else ("engine-differs").
        """
        batches = tuple(batches)
        if known is not None:
            fidelity.settled(self._runner, known, batches)
        self._held.update(batches)

    def close(self) -> None:
        """Free what the runtime holds."""
        self._runner.close()


def load(path: str | Path) -> Engine:
    """Verify a bundle and load its engine; the bytes that are loaded are those that were checked.

    Args:
        path: a bundle, its `latest` link, or the folder of a target.

    Raises:
        IntegrityError: the bundle is not exactly what was published.
        MachineError: the engine does not run on this machine.
    """
    return Engine(bundles.verify(Path(path)))


def admit(verified: bundles.Verified) -> tuple[Backend, BuildRequest]:
    """The backend that a verified bundle's engine is loaded with, and how.

    Raises:
        MachineError: its runtime or device is not here ("not-runnable"), or is another than the
            engine is bound to ("wrong-device"); its runtime is a class of a module that the caller
            has not imported ("not-imported").
        IntegrityError: the bundle does not tell the device that it was compiled for.
    """
    from rtc.targets import loader

    entry = verified.manifest.engine
    profile = loader.parse_profile(_profile(verified), str(verified.path / bundles.PROFILE))
    _refuse_to_import(entry.backend, str(verified.path))
    backend = loader.backend(entry.backend)
    runnable = backend.runnable(profile)
    if not runnable.ok:
        raise MachineError(
            f"this engine does not run here: {runnable.missing}",
            where=str(verified.path),
            expected=f"{profile.name} with {entry.runtime}",
            fix=runnable.fix or "copy the bundle to such a device, and run it there",
            id="not-runnable",
        )
    _check_binding(entry.binding, backend.meets(profile), str(verified.path))
    held = {int(batch): form for batch, form in entry.forms.items()}
    return backend, BuildRequest(profile, entry.batches, entry.threads, held)


def _refuse_to_import(backend: str, where: str) -> None:
    """A bundle is data: no module is imported because a bundle names it."""
    module = backend.partition(":")[0]
    if REFERENCE.match(backend) and module not in sys.modules:
        raise MachineError(
            f"this engine's runtime is {backend}, which nobody has imported",
            where=where,
            fix=f"if you trust it: import {module} before the bundle is loaded, or let its package"
            " register the runtime as an entry point of rtc.backends",
            id="not-imported",
        )


def probe_of(
    verified: bundles.Verified, split: Split, device: DeviceProfile
) -> fidelity.Probe | None:
    """What a bundle's engine is held to on samples of a split; None without its graph."""
    files = verified.files
    if GRAPH not in files or FLOAT not in files:
        return None
    return fidelity.probe(files[GRAPH], files[FLOAT], split, device)


def _stored_probe(verified: bundles.Verified) -> fidelity.Probe | None:
    content = verified.files.get(fidelity.FILE)
    try:
        return None if content is None else fidelity.unpacked(content)
    except ValueError as cause:
        raise sealed.refused("is no probe", verified.path / fidelity.FILE) from cause


def _profile(verified: bundles.Verified) -> bytes:
    if bundles.PROFILE not in verified.files:
        raise sealed.refused(
            "does not tell its device", verified.path, seen=f"no {bundles.PROFILE}"
        )
    return verified.files[bundles.PROFILE]


def _check_binding(
    binding: Mapping[str, str], here: Mapping[str, frozenset[str]], where: str
) -> None:
    for key, needed in binding.items():
        present = here.get(key, frozenset())
        if needed not in present:
            raise MachineError(
                "this engine is bound to another machine or runtime",
                where=where,
                seen=f"{key} {', '.join(sorted(present)) or 'none'}",
                expected=f"{key} {needed}",
                fix="compile the recipe for this machine, or run the engine on its own",
                id="wrong-device",
            )


def _check_batch(batch: int, largest: int) -> None:
    if not 1 <= batch <= largest:
        raise DataError(
            "the engine was not built for this batch",
            seen=str(batch),
            expected=f"1 to {largest}",
            fix=f"give it at most {largest} samples at once",
            id="batch",
        )


def fits(spec: TensorSpec, inputs: Array) -> bool:
    """Whether samples have the shape that an engine takes, in a batch of any size."""
    return len(inputs.shape) == len(spec.shape) and all(
        isinstance(size, str) or size == seen
        for size, seen in zip(spec.shape[1:], inputs.shape[1:], strict=True)
    )


def _check(spec: TensorSpec, inputs: Array) -> None:
    shaped = fits(spec, inputs)
    if not shaped or str(inputs.dtype) != spec.dtype:
        cast = f"inputs.astype({spec.dtype!r}) if they are preprocessed; "
        raise DataError(
            "these inputs do not fit the engine",
            where=spec.name,
            seen=f"{inputs.dtype} {inputs.shape}",
            expected=f"{spec.dtype} ({', '.join(map(str, spec.shape))})",
            fix=(cast if shaped else "") + "raw samples go through engine.preprocess first",
            id="input-shape",
        )
