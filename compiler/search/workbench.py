"""One runtime at work on graph after graph: each is built, run on the same samples, and timed.

The process stays from graph to graph, and so do the samples in it: a small graph is answered in a
fraction of a second. One that the runtime refuses, crashes on or hangs on is an error, and the next
gets a new process. An engine to be timed beside has a process of its own; the two take turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rtc.compiler.building.engines import built_by_outcome, built_from_files, built_to_files, held
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.closing import Closing
from rtc.compiler.core.data import Split
from rtc.compiler.core.errors import BuilderError, InternalError, MachineError
from rtc.compiler.core.target import Backend, BuildRequest, Built, Runner
from rtc.compiler.core.unit import Unit
from rtc.compiler.core.verdicts import LatencyMode
from rtc.compiler.documents.build_json import REQUEST
from rtc.compiler.measure import fidelity, kernels, worker
from rtc.compiler.measure.comparison import Case, Comparison, Subject
from rtc.compiler.measure.fidelity import Probe
from rtc.compiler.measure.kernels import KernelTimes
from rtc.compiler.measure.latency import Bench
from rtc.compiler.measure.worker import Files
from rtc.compiler.process.sandbox_child import Reply

BUILT, BESIDE = "the engine of a plan", "the float engine"
"""Names of the graph's engine and of the one beside it, in a comparison."""

_DEADLINE_S = 900.0  # for one graph
_MEMORY_GB = 16.0


class Runtime(Closing):
    """Builds graphs, runs and times them; a context manager.

    Args:
        backend: the runtime.
        request: what engines are built for; samples are run in its best batch.
        split: the samples, at least one.
        beside: an engine (named `BESIDE`) to time the others beside.

    Raises:
        RtcError: that engine cannot be loaded, or is not what its probe says.
    """

    def __init__(
        self,
        backend: Backend,
        request: BuildRequest,
        split: Split,
        *,
        beside: Subject | None = None,
    ) -> None:
        self._backend, self._request = backend, request
        self._runs = backend.runnable(request.profile).ok
        self._samples = len(split)
        head, content = worker.packed(split.inputs())
        args = {
            "backend": backend.name,
            "request": REQUEST.dump_python(request, mode="json"),
            "inputs": head,
            "runs": self._runs,
        }
        entry = f"{__name__}:workshop"
        self._subject = Subject(BUILT, entry, {"inputs": content}, args, memory_gb=_MEMORY_GB)
        others = [beside] if beside is not None and self._runs else []
        self._bench = Bench(others, split, (request.batches[1],))
        self._bench.refuse_failures()

    def build(self, graph: Unit, known: Probe | None = None) -> Built:
        """Build a graph; what is asked from then on is of its engine.

        Args:
            graph: what to build.
            known: what its engine is held to at the batches of the request.

        Raises:
            ModelError: the runtime does not take the graph.
            BuilderError, MachineError: it failed, crashed, hung or ran out of memory, or the engine
                computes something else than the graph (id "engine-differs").
        """
        probe = {} if known is None else {fidelity.FILE: fidelity.packed(known)}

        def build(proto: bytes) -> Built:
            self._bench.failures.pop(BUILT, None)
            if BUILT not in self._bench.running:
                self._bench.start(self._subject)
                self._bench.refuse_failures()
            _, files = self._ask("build", {"graph.onnx": proto, **probe})
            return built_from_files(files)

        return built_by_outcome(self._backend, graph.onnx.proto, build)

    def logits(self, count: int | None = None) -> Array:
        """The first output (N, …) for every sample, or for the first `count` of them.

        Raises:
            RtcError: as `build`.
        """
        reply, files = self._ask("logits", count=self._samples if count is None else count)
        return worker.unpacked(files["logits"], reply["logits"])

    def kernel_times(self, built: Built, seconds: float) -> KernelTimes:
        """What each layer of the engine takes; estimated where nobody can measure it.

        Raises:
            RtcError: as `build`.
        """
        if self._runs:
            reply, _ = self._ask("kernels", seconds=seconds)
            if reply["microseconds"]:
                return kernels.as_measured(reply["microseconds"], self._request)
        return kernels.estimated(built, self._request)

    def beside_ms(self) -> float:
        """Milliseconds that the engine beside takes for a batch, roughly.

        Raises:
            RtcError: it failed.
        """
        return self._bench.typical_ms(BESIDE, Case(LatencyMode.FORWARD, self._request.batches[1]))

    def compared(
        self, seconds: float, *, modes: Sequence[LatencyMode] = (LatencyMode.FORWARD,), seed: int
    ) -> Comparison:
        """Time the engine in turns with the one beside it.

        Raises:
            RtcError: either failed.
        """
        comparison = self._bench.time(seconds, modes=modes, seed=seed)
        self._bench.refuse_failures()
        return comparison

    def close(self) -> None:
        """End the processes."""
        self._bench.close()

    def _ask(self, op: str, files: Files | None = None, **more: Any) -> Reply:
        request = {"op": op, **more}
        return self._bench.ask(BUILT, request, files or {}, timeout_s=_DEADLINE_S)


def workshop(files: Files, args: Mapping[str, Any]) -> _Workshop:
    """What the process keeps. Files: `inputs`, `samples`; args: `backend`, `request`, `inputs`,
    `samples`, and whether it `runs` what it builds.
    """
    from rtc.targets import loader

    return _Workshop(
        loader.backend(args["backend"]),
        REQUEST.validate_python(args["request"]),
        worker.unpacked(files["inputs"], args["inputs"]),
        (files[worker.SAMPLES], args[worker.SAMPLES]) if args["runs"] else None,
    )


class _Workshop:
    """Builds, and answers of what it built last.

    Requests (`op`):
        build: the file `graph.onnx`, perhaps `probe.npz` → `built_to_files`, without the engine.
        logits: `count` → `logits` of the first samples.
        kernels: `seconds` → `microseconds` of each layer; none without a profiler.
        Any other is the loaded engine's (`worker.LoadedSubject`).
    """

    def __init__(
        self,
        backend: Backend,
        request: BuildRequest,
        inputs: Array,
        samples: tuple[bytes, Mapping[str, Any]] | None,
    ) -> None:
        self._backend, self._request = backend, request
        self._inputs, self._samples = inputs, samples
        self._built: Built | None = None
        self._runner: Runner | None = None
        self._session: worker.LoadedSubject | None = None

    def ask(self, request: dict[str, Any], files: Files) -> Reply:
        if request["op"] == "build":
            return self._build(files)
        if self._built is None or self._runner is None or self._session is None:
            raise InternalError("nothing was built that could be run")
        if request["op"] == "logits":
            head, content = worker.packed(self._run(self._runner, request["count"]))
            return {"logits": head}, {"logits": content}
        if request["op"] == "kernels":
            return self._kernels(self._built, self._runner, request["seconds"]), {}
        return self._session.ask(request, files)

    def _build(self, files: Files) -> Reply:
        if self._runner is not None:
            self._runner.close()
        self._built = self._runner = self._session = None
        graph = files["graph.onnx"]
        if self._samples is None:
            built = self._backend.build(graph, self._request)
        else:
            if fidelity.FILE not in files:
                built, self._runner = self._backend.build_and_load(graph, self._request)
            else:
                known = fidelity.unpacked(files[fidelity.FILE])
                built, self._runner = held(self._backend, graph, self._request, known)
            self._session = worker.LoadedSubject(self._runner, *self._samples)
        self._built = built
        return {}, {**built_to_files(built), "engine.bin": b""}

    def _run(self, runner: Runner, count: int) -> Array:
        """The first samples, in batches of the one size that the engine was built for."""
        size = self._request.batches[1]
        source, result = runner.signature.inputs[0].name, runner.signature.outputs[0].name
        parts = []
        for start in range(0, count, size):
            # The last sample fills up the last batch.
            batch = np.take(self._inputs, range(start, start + size), axis=0, mode="clip")
            parts.append(runner.run({source: batch})[result].copy())
        return np.concatenate(parts)[:count]

    def _kernels(self, built: Built, runner: Runner, seconds: float) -> dict[str, Any]:
        size = self._request.batches[1]
        inputs = np.take(self._inputs, range(size), axis=0, mode="wrap")
        feeds = {runner.signature.inputs[0].name: inputs}
        request = replace(self._request, forms=built.forms)
        try:
            times = self._backend.layer_times(built.engine, request, built.layers, feeds, seconds)
        except (BuilderError, MachineError):
            return {"microseconds": []}  # without a profiler an engine is as good
        return {"microseconds": list(times)}
