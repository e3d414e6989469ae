"""What each kernel of an engine takes: profiled where the engine runs, from the roofline elsewhere.

A runtime that records its kernels is slower for it, and some of its time passes between kernels. So
an engine that was profiled is timed without a profiler as well, in the same process: the ratio of
the two says how far the sum of its kernels may be believed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from rtc.compiler import sandbox
from rtc.compiler.core.data import Split
from rtc.compiler.core.errors import BuilderError, MachineError
from rtc.compiler.core.hashing import canonical
from rtc.compiler.core.target import Backend, BuildRequest, Built, BuiltLayer
from rtc.compiler.measure import worker
from rtc.compiler.measure.provenance import device
from rtc.targets import roofline

_READY_S = 300.0  # to load and compile the engine, besides the seconds of timing
_PROFILED = 0.75  # of the seconds; the rest is for the engine as it is
_REQUEST: TypeAdapter[BuildRequest] = TypeAdapter(BuildRequest)
_LAYERS: TypeAdapter[tuple[BuiltLayer, ...]] = TypeAdapter(tuple[BuiltLayer, ...])


@dataclass(frozen=True)
class KernelTimes:
    """Microseconds of each layer of an engine, for one batch.

    Attributes:
        microseconds: in the order of `Built.layers`; None where nobody can tell.
        measured: whether they were; a roofline's otherwise.
        where: the machine, or the model that estimated them.
        batch: samples in the batch.
        whole: microseconds of the engine without a profiler (median); None where it did not run.
    """

    microseconds: tuple[float | None, ...]
    measured: bool
    where: str
    batch: int
    whole: float | None = None

    @property
    def total(self) -> float:
        """The sum of all kernels that are known."""
        return sum(time for time in self.microseconds if time is not None)

    @property
    def accounted(self) -> float | None:
        """What part of the whole its kernels take; above 1 where profiling slowed them down."""
        return self.total / self.whole if self.whole else None


def kernel_times(
    backend: Backend, built: Built, request: BuildRequest, samples: Split, seconds: float
) -> KernelTimes:
    """The kernels of an engine at its best batch, timed in a child process if it runs here.

    Args:
        backend: the runtime that built it.
        built: the engine and its layers.
        request: what it was built for; the second of its batches is timed.
        samples: inputs; repeated where there are fewer than a batch.
        seconds: for all timing.

    Raises:
        MachineError, BuilderError: as `sandbox.run`.
    """
    batch = request.batches[1]
    if backend.runnable(request.profile).ok:
        try:
            return _profiled(backend, built, request, samples, seconds)
        except (BuilderError, MachineError):
            pass  # without a profiler, or with one that fails, the engine is as good
    times = roofline.layer_times(built.layers, request.profile, batch)
    return KernelTimes(
        times, measured=False, where=f"roofline of {request.profile.name}", batch=batch
    )


def _profiled(
    backend: Backend, built: Built, request: BuildRequest, samples: Split, seconds: float
) -> KernelTimes:
    batch = request.batches[1]
    head, content = worker.packed(samples.preprocess(worker.batches(samples.raw[:batch], batch)[0]))
    files = sandbox.run(
        "rtc.compiler.measure.kernels:profile_here",
        files={"engine": built.engine, "inputs": content},
        args={
            "backend": backend.name,
            "request": _REQUEST.dump_python(request, mode="json"),
            "layers": _LAYERS.dump_python(built.layers, mode="json"),
            "inputs": head,
            "seconds": seconds,
        },
        deadline_s=_READY_S + 10 * seconds,
        what=f"timing the kernels of {backend.name}",
    )
    found = json.loads(files["times.json"])
    return KernelTimes(
        tuple(found["microseconds"]),
        measured=True,
        where=device(request.profile.kind),
        batch=batch,
        whole=found["whole"],
    )


def profile_here(files: Mapping[str, bytes], args: Mapping[str, Any]) -> dict[str, bytes]:
    """Time an engine, whole and by kernel, in this process, which is a child."""
    from rtc.targets import loader

    backend = loader.backend(args["backend"])
    request = _REQUEST.validate_python(args["request"])
    layers = _LAYERS.validate_python(args["layers"])
    inputs = worker.unpacked(files["inputs"], args["inputs"])
    with backend.load(files["engine"], request) as runner:
        feeds = {runner.signature.inputs[0].name: inputs}
        runner.bind(feeds)
        slowest = worker.timed(runner.enqueue, 2, 3).max() / 1e9
        count = max(3, int((1 - _PROFILED) * args["seconds"] / slowest))
        whole = float(np.median(worker.timed(runner.enqueue, 0, count))) / 1e3
    times = backend.layer_times(
        files["engine"], request, layers, feeds, _PROFILED * args["seconds"]
    )
    return {"times.json": canonical({"microseconds": list(times), "whole": whole})}
