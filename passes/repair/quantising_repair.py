"""What the repairs of a model that is to be quantised have in common.

A repair changes a float model so that less is lost when it is quantised. Its output is no model to
run: it is judged by its twin in INT8, on samples that it did not learn from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from rtc.compiler.core.passes import (
    PLANNED,
    Bound,
    Bounded,
    Judged,
    Pass,
    PassContext,
    PassResult,
    Requirement,
    Sound,
)
from rtc.compiler.core.unit import Level, Unit
from rtc.passes.quantise.qdq import quantised_twin

if TYPE_CHECKING:
    from rtc.compiler.core.data import Split

_LEAST_GAIN_DB = 0.01
_REMEDY = "raise its max_disagreement, or take it out of precision.repairs in the recipe"


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

    requires: ClassVar[frozenset[Requirement]] = PLANNED

    samples: Annotated[int, Field(ge=1)] = 512
    max_disagreement: Annotated[float, Field(ge=0, le=1)] | None = None

    @property
    def bound(self) -> Bound:
        given = self.max_disagreement
        return Sound() if given is None else Bounded("disagreement", given)

    def unchanged(
        self, unit: Unit, ctx: PassContext, summary: str, details: Mapping[str, Any]
    ) -> PassResult:
        """The result where there is nothing to repair."""
        judged = Judged(quantised_twin(unit, ctx))
        return PassResult(unit, False, summary, details, judged=judged, remedy=_REMEDY)

    def weighed(
        self,
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
        twins = [quantised_twin(unit, ctx) for unit in (before, after)]
        snr = [output_snr_db(reference, twin.onnx.proto, judge) for twin in twins]
        details["snr_db"] = [round(decibels, 2) for decibels in snr]
        gains = snr[1] >= snr[0] + _LEAST_GAIN_DB
        change = f"output {snr[0]:.1f} → {snr[1]:.1f} dB"
        return PassResult(
            unit=after if gains else before,
            modified=gains,
            summary=f"{what}, {change}" if gains else f"left as it was: {change}",
            details=details,
            judged=Judged(twins[1] if gains else twins[0]),
            remedy=_REMEDY,
        )
