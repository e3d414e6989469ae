"""What the repairs of a model that is to be quantised have in common.

A repair changes a float model so that less is lost when it is quantised. Its output is no model to
run: it is judged by its twin in INT8, on samples that it did not learn from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from rtc.compiler.core.passes import Bound, Bounded, Pass, PassContext, PassResult, Sound
from rtc.compiler.core.unit import Level, Unit
from rtc.passes.quantise.qdq import quantised_twin

if TYPE_CHECKING:
    from rtc.compiler.core.data import Split

_LEAST_GAIN_DB = 0.01


@dataclass(frozen=True)
class Repair(Pass):
    """A pass over the weights of a plan's INT8 layers.

    Attributes:
        samples: calibration samples to use at most.
        max_disagreement: the fraction of samples whose top-1 class may change, float to INT8; none
            where the gates alone are to judge.
    """

    takes: ClassVar[Level] = Level.ONNX
    gives: ClassVar[Level] = Level.ONNX

    samples: Annotated[int, Field(ge=1)] = 512
    max_disagreement: Annotated[float, Field(ge=0, le=1)] | None = None

    def remedy(self, ctx: PassContext) -> str:
        return "raise its max_disagreement, or take it out of precision.repairs in the recipe"

    @property
    def bound(self) -> Bound:
        given = self.max_disagreement
        return Sound() if given is None else Bounded("disagreement", given)

    def judged(self, unit: Unit, ctx: PassContext) -> Unit:
        return quantised_twin(unit, ctx)


def weighed(
    before: Unit,
    after: Unit,
    ctx: PassContext,
    *,
    judge: Split,
    details: dict[str, Any],
    what: str,
) -> PassResult:
    """`after`, or `before` where the output in INT8 gains nothing by it on the samples `judge`.

    `details` takes `snr_db`, the output's before and after; `what` was done, for the summary.
    """
    from rtc.calibration.effect import output_snr_db

    reference = (ctx.reference or before).onnx.proto
    snr = [
        output_snr_db(reference, quantised_twin(each, ctx).onnx.proto, judge)
        for each in (before, after)
    ]
    details["snr_db"] = [round(decibels, 2) for decibels in snr]
    change = f"output {snr[0]:.1f} → {snr[1]:.1f} dB"
    if snr[1] < snr[0] + _LEAST_GAIN_DB:
        return PassResult(before, False, f"left as it was: {change}", details)
    return PassResult(after, True, f"{what}, {change}", details)
