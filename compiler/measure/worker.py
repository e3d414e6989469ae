"""What a measured subject runs in its own process: load one engine, answer "infer" and "time".

Entries (for `sandbox.Worker`): `engine` for a backend's engine, `eager` for a PyTorch unit, and
`reference` for an ONNX model in unoptimised ONNX Runtime. Each gives a `LoadedSubject`.
"""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rtc.compiler.core.arrays import Array, Int64Array
from rtc.compiler.core.data import Preprocess, filled
from rtc.compiler.core.errors import BuilderError, InternalError
from rtc.compiler.core.target import Runner
from rtc.compiler.core.unit import Unit
from rtc.compiler.core.verdicts import LatencyMode
from rtc.compiler.measure import fidelity
from rtc.compiler.measure.provenance import physical_cores
from rtc.compiler.process.sandbox_child import Reply

Files = Mapping[str, bytes]
Args = Mapping[str, Any]

SAMPLES = "samples"  # the file with the raw samples that are timed


def engine(files: Files, args: Args) -> LoadedSubject:
    """A backend's engine. Files: `engine`, `samples`; args: `backend`, `request`, `samples`."""
    from rtc.compiler.documents.build_json import REQUEST
    from rtc.targets import loader

    request = REQUEST.validate_python(args["request"])
    runner = loader.backend(args["backend"]).load(files["engine"], request)
    return LoadedSubject(runner, files[SAMPLES], args[SAMPLES])


def eager(files: Files, args: Args) -> LoadedSubject:
    """PyTorch, eager mode. Files: a unit's, and `samples`; args: `threads`, `samples`."""
    runner = EagerRunner(Unit.from_files(files), threads=args["threads"] or physical_cores())
    return LoadedSubject(runner, files[SAMPLES], args[SAMPLES])


def reference(files: Files, args: Args) -> LoadedSubject:
    """Unoptimised ONNX Runtime. Files: a unit's, and `samples`; args: `threads`, `samples`."""
    runner = ReferenceRunner(Unit.from_files(files), threads=args["threads"])
    return LoadedSubject(runner, files[SAMPLES], args[SAMPLES])


class EagerRunner(Runner):
    """A PyTorch unit on the CPU, float32, without gradients.

    Args:
        unit: at the PyTorch level.
        threads: CPU threads; 0 leaves the process's setting as it is.
    """

    def __init__(self, unit: Unit, *, threads: int = 0) -> None:
        from rtc.passes.torch import torch_module

        self.signature = unit.signature
        # First, since it says what to install where there is no torch.
        self._module: Any = torch_module.build(unit.torch)
        import torch

        if threads:
            torch.set_num_threads(threads)
        self._torch = torch
        self._input: Any = None
        self._output: Any = None

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self.bind(feeds)
        self.enqueue()
        return self.results()

    def bind(self, feeds: Mapping[str, Array]) -> None:
        self._input = self._torch.from_numpy(feeds[self.signature.inputs[0].name])

    def enqueue(self) -> None:
        with self._torch.inference_mode():
            self._output = self._module(self._input)

    def results(self) -> dict[str, Array]:
        values = self._output if isinstance(self._output, (tuple, list)) else (self._output,)
        names = (spec.name for spec in self.signature.outputs)
        return {name: value.numpy() for name, value in zip(names, values, strict=True)}

    def close(self) -> None:
        self._module = self._input = self._output = None


class ReferenceRunner(Runner):
    """An ONNX unit in the oracle, which takes and gives arrays in host memory only."""

    def __init__(self, unit: Unit, *, threads: int = 0) -> None:
        from rtc.calibration.oracle import Oracle

        self.signature = unit.signature
        self._oracle = Oracle(unit.onnx.proto, threads=threads)
        self._inputs: Array = np.empty(0)
        self._outputs: dict[str, Array] = {}

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return self._oracle.run(feeds[self.signature.inputs[0].name])

    def bind(self, feeds: Mapping[str, Array]) -> None:
        self._inputs = feeds[self.signature.inputs[0].name]

    def enqueue(self) -> None:
        self._outputs = self._oracle.run(self._inputs)

    def results(self) -> dict[str, Array]:
        return self._outputs

    def close(self) -> None:
        self._outputs = {}


class LoadedSubject:
    """One loaded subject and the raw samples it is timed on.

    Requests (`op`):
        hold: `batch`, the file `probe.npz` → `form`: the one that the batch is computed in from
            now on, because it is right.
        infer: `inputs` (preprocessed, as `packed` describes), `batch` → `logits`, the first output,
            computed `batch` samples at a time; where that is the one that the model takes, the last
            is filled up.
        time: `mode`, `batch`, `warmup`, `iterations` → `times`: int64 nanoseconds per batch.

    `LatencyMode` says what is timed; end to end, the samples change from batch to batch.
    """

    def __init__(self, runner: Runner, content: bytes, head: Mapping[str, Any]) -> None:
        self._runner = runner
        self._raw = unpacked(content, head)
        fields = head["preprocess"]
        self._preprocess = Preprocess(
            fields["scale"], tuple(fields["mean"]), tuple(fields["std"]), fields["layout"]
        )
        self._input = runner.signature.inputs[0].name
        self._output = runner.signature.outputs[0].name
        gc.freeze()  # what is loaded stays: nothing of it is worth a collector's walk

    def ask(self, request: dict[str, Any], files: Files) -> Reply:
        """Answer one request; see the module's docstring."""
        if request["op"] == "infer":
            inputs, size = unpacked(files["inputs"], request["inputs"]), request["batch"]
            parts = [self._rows(inputs[i : i + size]) for i in range(0, len(inputs), size)]
            head, content = packed(np.concatenate(parts))
            return {"logits": head}, {"logits": content}
        if request["op"] == "hold":
            known = fidelity.unpacked(files[fidelity.FILE])
            return {"form": fidelity.settle(self._runner, known, request["batch"]).form}, {}
        if request["op"] == "time":
            forward = LatencyMode(request["mode"]) is LatencyMode.FORWARD
            step, check = (self._forward if forward else self._end_to_end)(request["batch"])
            times = timed(step, request["warmup"], request["iterations"])
            check()
            head, content = packed(times)
            return {"times": head}, {"times": content}
        raise InternalError(f"a session cannot {request['op']!r}")

    def _rows(self, inputs: Array) -> Array:
        first = self._runner.signature.inputs[0].shape[0]
        whole = first if isinstance(first, int) else 1
        return self._run(filled(inputs, whole))[: len(inputs)].copy()

    def _run(self, inputs: Array) -> Array:
        return self._runner.run({self._input: inputs})[self._output]

    def _forward(self, batch: int) -> tuple[Callable[[], object], Callable[[], None]]:
        inputs = self._preprocess(batches(self._raw, batch)[0])
        expected = self._run(inputs).copy()  # a runner may use its buffers again
        self._runner.bind({self._input: inputs})

        def check() -> None:
            """The timed runs computed what an untimed run does, up to the order of additions."""
            seen = self._runner.results()[self._output]
            near = 1e-2 * np.abs(np.nan_to_num(expected)).max()
            if not np.allclose(seen, expected, rtol=1e-2, atol=near, equal_nan=True):
                reason = "the timed runs computed something else than an untimed one"
                raise BuilderError(reason, id="timed-run-differs")

        return self._runner.enqueue, check

    def _end_to_end(self, batch: int) -> tuple[Callable[[], object], Callable[[], None]]:
        turn = itertools.cycle(batches(self._raw, batch))

        def step() -> object:
            return self._run(self._preprocess(next(turn))).argmax(axis=1)

        return step, lambda: None


def timed(step: Callable[[], object], warmup: int, iterations: int) -> Int64Array:
    """Nanoseconds of each of `iterations` calls, after `warmup` uncounted ones; no collector."""
    times = np.empty(iterations, np.int64)
    clock = time.perf_counter_ns
    for _ in range(warmup):
        step()
    gc.disable()
    try:
        for i in range(iterations):
            begun = clock()
            step()
            times[i] = clock() - begun
    finally:
        gc.enable()
    return times


def batches(raw: Array, size: int) -> list[Array]:
    """All whole batches of the samples; where there are too few, one that repeats them."""
    if len(raw) < size:
        return [np.take(raw, range(size), axis=0, mode="wrap")]
    return [raw[i : i + size] for i in range(0, len(raw) - size + 1, size)]


def packed(array: Array) -> tuple[dict[str, Any], bytes]:
    """An array as what its bytes mean, and its bytes."""
    head = {"dtype": array.dtype.str, "shape": list(array.shape)}
    return head, np.ascontiguousarray(array).tobytes()


def unpacked(content: bytes, head: Mapping[str, Any]) -> Array:
    """The inverse of `packed`; writable."""
    return np.frombuffer(bytearray(content), head["dtype"]).reshape(head["shape"])
