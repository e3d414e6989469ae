"""`recalibrate`: the ranges around residual Adds of that policy, taken anew; the graph stays.

Of each such Add the layers that end its two branches are quantised as its plan has them, and both
branches and the sum get the ranges that bring them closest to the float model
(rtc.calibration.segmented). All Adds are walked over once, side by side: each is a segment of its
own, with float values before it. `details`: `tensors` ([low, high] before and after, by name).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from rtc.compiler.core.passes import PLANNED, Pass, PassContext, PassResult, Requirement
from rtc.compiler.core.precision import ResidualPolicy
from rtc.compiler.core.unit import Level, Unit
from rtc.passes.quantise.one_add import ranges_around
from rtc.passes.support.onnx_graph import read
from rtc.passes.support.residuals import residuals


@dataclass(frozen=True)
class Recalibrate(Pass):
    """Take the ranges around the Adds whose policy is `recalibrated` with their branches quantised.

    Attributes:
        samples: calibration samples to use at most.
    """

    name: ClassVar[str] = "recalibrate"
    takes: ClassVar[Level] = Level.ONNX
    gives: ClassVar[Level] = Level.ONNX
    requires: ClassVar[frozenset[Requirement]] = PLANNED

    samples: Annotated[int, Field(ge=1)] = 16

    def apply(self, unit: Unit, ctx: PassContext) -> PassResult:
        """Find ranges; `statistics` of the result holds all of them."""
        plan, base = ctx.planned(), ctx.reference or unit
        adds = [
            add
            for add in residuals(read(base).cleanup())
            if plan.residual_of(add.name) is ResidualPolicy.RECALIBRATED
        ]
        found = ranges_around(base, ctx, adds, ctx.calibration().head(self.samples))
        anew = {name: seen for ranges in found.values() for name, seen in ranges.items()}
        tensors = {
            name: [[each.low, each.high] for each in (ctx.statistics[name], seen)]
            for name, seen in anew.items()
        }
        summary = f"{len(anew)} ranges around {len(adds)} residual Adds taken anew"
        statistics = {**ctx.statistics, **anew}
        return PassResult(unit, False, summary, {"tensors": tensors}, statistics=statistics)
