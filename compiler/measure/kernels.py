"""What each kernel of an engine takes: profiled where the engine runs, from the roofline elsewhere.

A runtime that records its kernels is slower for it, and some of its time passes between kernels. So
an engine that is profiled is timed without a profiler as well, in the same process: the ratio of
the two says how far the sum of its kernels may be believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rtc.compiler.core.data import Array
from rtc.compiler.core.target import Backend, BuildRequest, Built, Runner
from rtc.compiler.measure import worker
from rtc.compiler.measure.provenance import device
from rtc.targets import roofline

_PROFILED = 0.75  # of the seconds; the rest is for the engine as it is

Microseconds = Sequence[float | None]
"""Of each layer, in the order of `Built.layers`; None where nobody can tell."""


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


def profiled(
    backend: Backend,
    built: Built,
    runner: Runner,
    request: BuildRequest,
    *,
    inputs: Array,
    seconds: float,
) -> tuple[Microseconds, float]:
    """The kernels of an engine and the whole of it, in microseconds, timed in this process.

    Args:
        backend: the runtime that built it.
        built: the engine and its layers.
        runner: the same engine, loaded.
        request: what it was built for.
        inputs: one batch of its best size.
        seconds: for all timing.

    Raises:
        MachineError, BuilderError: there is no profiler, or it failed.
    """
    feeds = {runner.signature.inputs[0].name: inputs}
    runner.bind(feeds)
    slowest = worker.timed(runner.enqueue, 2, 3).max() / 1e9
    count = max(3, int((1 - _PROFILED) * seconds / slowest))
    whole = float(np.median(worker.timed(runner.enqueue, 0, count))) / 1e3
    spent = _PROFILED * seconds
    return backend.layer_times(built.engine, request, built.layers, feeds, spent), whole


def as_measured(times: Microseconds, whole: float, request: BuildRequest) -> KernelTimes:
    """What `profiled` found on this machine."""
    where, batch = device(request.profile.kind), request.batches[1]
    return KernelTimes(tuple(times), measured=True, where=where, batch=batch, whole=whole)


def estimated(built: Built, request: BuildRequest) -> KernelTimes:
    """The kernels of an engine for a device that is not here, at its best batch."""
    batch, where = request.batches[1], f"roofline of {request.profile.name}"
    times = roofline.layer_times(built.layers, request.profile, batch)
    return KernelTimes(times, measured=False, where=where, batch=batch)
