"""What each kernel of an engine takes: profiled where the engine runs, from the roofline elsewhere.

A runtime that records its kernels is slower for it, and some of its time passes between kernels:
these times say how an engine's latency is shared, not how long it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rtc.compiler.core.target import BuildRequest, Built
from rtc.compiler.measure.provenance import device
from rtc.targets import roofline

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
    """

    microseconds: tuple[float | None, ...]
    measured: bool
    where: str
    batch: int

    @property
    def total(self) -> float:
        """The sum of all kernels that are known."""
        return sum(time for time in self.microseconds if time is not None)


def as_measured(times: Microseconds, request: BuildRequest) -> KernelTimes:
    """What `Backend.layer_times` found on this machine."""
    where, batch = device(request.profile.kind), request.batches[1]
    return KernelTimes(tuple(times), measured=True, where=where, batch=batch)


def estimated(built: Built, request: BuildRequest) -> KernelTimes:
    """The kernels of an engine for a device that is not here, at its best batch."""
    batch, where = request.batches[1], f"roofline of {request.profile.name}"
    times = roofline.layer_times(built.layers, request.profile, batch)
    return KernelTimes(times, measured=False, where=where, batch=batch)
