"""One runtime in a process of its own: graphs go in, are built, and their logits come out.

The process stays from graph to graph, and so do the samples in it: a small graph is answered in a
fraction of a second. One that crashes the runtime, or that it hangs on, is an error, and the next
graph gets a new process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from rtc.compiler.core.closing import Closing
from rtc.compiler.core.data import Array, Split
from rtc.compiler.core.errors import BuilderError, MachineError
from rtc.compiler.core.target import Backend, BuildRequest, DeviceProfile
from rtc.compiler.core.unit import Unit
from rtc.compiler.measure.worker import packed, unpacked
from rtc.compiler.sandbox import Worker

_BATCH = 64  # samples that an engine is given at once
_DEADLINE_S = 900.0  # for one graph
_MEMORY_GB = 16.0
_REQUEST: TypeAdapter[BuildRequest] = TypeAdapter(BuildRequest)


class Runtime(Closing):
    """Builds graphs and runs them on the same samples; a context manager.

    Args:
        backend: the runtime; it must run here.
        profile: the device to build for.
        split: the samples, at least one.
        threads: CPU threads for the engine; 0 for the runtime's own choice.
    """

    def __init__(
        self, backend: Backend, profile: DeviceProfile, split: Split, *, threads: int = 0
    ) -> None:
        batch = min(_BATCH, len(split))
        request = BuildRequest(profile, (batch, batch, batch), threads)
        head, content = packed(split.inputs())
        self._name = backend.name
        self._files = {"inputs": content}
        self._args = {
            "backend": backend.name,
            "request": _REQUEST.dump_python(request, mode="json"),
            "inputs": head,
        }
        self._worker: Worker | None = None

    def logits(self, graph: Unit) -> Array:
        """The first output (N, …) for every sample.

        Raises:
            ModelError: the runtime does not take the graph.
            BuilderError, MachineError: it failed, crashed, hung or ran out of memory.
        """
        if self._worker is None:
            self._worker = Worker(
                "rtc.compiler.precision.runtime:trials",
                files=self._files,
                args=self._args,
                what=f"{self._name} on a trial graph",
                memory_gb=_MEMORY_GB,
            )
        files = {"graph.onnx": graph.onnx.proto}
        try:
            reply, blobs = self._worker.ask({}, files, timeout_s=_DEADLINE_S)
        except (BuilderError, MachineError):
            self.close()  # after some of them the process is gone
            raise
        return unpacked(blobs["logits"], reply["logits"])

    def close(self) -> None:
        """End the process."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None


def trials(files: Mapping[str, bytes], args: Mapping[str, Any]) -> _Trials:
    """What the process keeps. Files: `inputs`; args: `backend`, `request`, `inputs`."""
    from rtc.targets import loader

    request = _REQUEST.validate_python(args["request"])
    return _Trials(
        loader.backend(args["backend"]), request, unpacked(files["inputs"], args["inputs"])
    )


class _Trials:
    """Answers a request with the file `graph.onnx` by the graph's `logits`."""

    def __init__(self, backend: Backend, request: BuildRequest, inputs: Array) -> None:
        self._backend = backend
        self._request = request
        self._inputs = inputs

    def ask(
        self, _: dict[str, Any], files: Mapping[str, bytes]
    ) -> tuple[dict[str, Any], dict[str, bytes]]:
        built = self._backend.build(files["graph.onnx"], self._request)
        head, content = packed(self._run(built.engine))
        return {"logits": head}, {"logits": content}

    def _run(self, engine: bytes) -> Array:
        """Every sample, in batches of the one size that the engine was built for."""
        size, count = self._request.batches[1], len(self._inputs)
        with self._backend.load(engine, self._request) as runner:
            source, result = runner.signature.inputs[0].name, runner.signature.outputs[0].name
            parts = []
            for start in range(0, count, size):
                batch = np.take(
                    self._inputs, range(start, start + size), axis=0, mode="clip"
                )  # the last sample fills up the last batch
                parts.append(runner.run({source: batch})[result].copy())
        return np.concatenate(parts)[:count]
