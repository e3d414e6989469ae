"""`calibrate-segments`: ranges taken anew, segment by segment; the graph stays as it is.

The tensors that a plan quantises are cut into runs of about equal length, in graph order. For each
run the calibration set is walked once, with all before it quantised by the ranges found so far, and
the run's ranges are those that bring it closest to the float model (rtc.calibration.segmented).
What is closest for a tensor is not always best for the output, so a run's new ranges are kept only
where the output gains, and all of them only where it gains on samples that nothing was learned
from. `details`: `tried` (names), `tensors` ([low, high] before and after, where they changed),
`snr_db` ([before, after]).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from rtc.compiler.core.passes import PLANNED, Pass, PassContext, PassResult, Requirement, Statistics
from rtc.compiler.core.unit import Level, Unit
from rtc.passes.quantise.placement import placement
from rtc.passes.quantise.qdq import names_in, quantised_twin
from rtc.passes.support.onnx_graph import read

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from rtc.compiler.core.data import Split

_LEAST_GAIN_DB = 1.0  # a gain of 0.5 dB on 64 samples of a ResNet-20 was a loss of 0.3 on 512
_TRIED = 128  # samples that a run's ranges are tried on


@dataclass(frozen=True)
class CalibrateSegments(Pass):
    """Take the ranges of a plan's tensors with everything before them quantised.

    Attributes:
        segments: runs to cut the tensors into; each costs about two passes over the samples.
        samples: calibration samples to use at most.
    """

    name: ClassVar[str] = "calibrate-segments"
    takes: ClassVar[Level] = Level.ONNX
    gives: ClassVar[Level] = Level.ONNX
    requires: ClassVar[frozenset[Requirement]] = PLANNED

    segments: Annotated[int, Field(ge=1)] = 4
    samples: Annotated[int, Field(ge=1)] = 512

    def apply(self, unit: Unit, ctx: PassContext) -> PassResult:
        """Find ranges; `statistics` of the result holds all of them."""
        from rtc.calibration.held_out import learn_and_judge

        tensors = _tensors(read(unit), ctx)
        if not tensors:
            summary = "no tensor to take a range of"
            return PassResult(unit, False, summary, statistics=ctx.statistics)
        learn, judge = learn_and_judge(ctx.calibration(), self.samples, unit)
        matched = self._found(tensors, unit, ctx, learn)
        snr = [_snr_db(unit, ctx, each, judge) for each in (ctx.statistics, matched)]
        chosen = matched if snr[1] > snr[0] + _LEAST_GAIN_DB else ctx.statistics
        anew = {
            name: [[each.low, each.high] for each in (ctx.statistics[name], chosen[name])]
            for name in tensors
            if chosen[name] != ctx.statistics[name]
        }
        rounded = [round(decibels, 2) for decibels in snr]
        details = {"tried": tensors, "tensors": anew, "snr_db": rounded}
        summary = f"{len(anew)} of {len(tensors)} ranges taken anew"
        if anew:
            summary += f", output {snr[0]:.1f} → {snr[1]:.1f} dB"
        return PassResult(unit, False, summary, details, statistics=chosen)

    def _found(
        self, tensors: Sequence[str], unit: Unit, ctx: PassContext, learn: Split
    ) -> Statistics:
        """All ranges; those of `tensors` taken anew, run by run, wherever the output gains."""
        from rtc.calibration.segmented import matched_ranges

        reference, statistics = ctx.reference or unit, ctx.statistics
        few = learn.head(_TRIED)
        best = _snr_db(unit, ctx, statistics, few)
        size = -(-len(tensors) // self.segments)
        for start in range(0, len(tensors), size):
            twin = _twin(unit, ctx, statistics)
            names = names_in(read(twin), read(reference), tensors[start : start + size])
            anew = matched_ranges(
                reference.onnx.proto,
                twin.onnx.proto,
                names,
                ctx.statistics,
                learn,
                progress=ctx.progress,
            )
            snr = _snr_db(unit, ctx, {**statistics, **anew}, few)
            if snr > best:
                best, statistics = snr, {**statistics, **anew}
        return statistics


def _snr_db(unit: Unit, ctx: PassContext, statistics: Statistics, split: Split) -> float:
    """The output of what the ranges give against the float model's, in decibels."""
    from rtc.calibration.effect import output_snr_db

    reference, twin = ctx.reference or unit, _twin(unit, ctx, statistics)
    return output_snr_db(reference.onnx.proto, twin.onnx.proto, split)


def _twin(unit: Unit, ctx: PassContext, statistics: Statistics) -> Unit:
    return quantised_twin(unit, replace(ctx, statistics=statistics))


def _tensors(graph: gs.Graph, ctx: PassContext) -> list[str]:
    """Names of the tensors to take ranges of, in graph order; a graph's input keeps its own."""
    wanted = {spot.range_of for spot in placement(graph, ctx.planned(), ctx.where().scheme)}
    return [tensor.name for node in graph.nodes for tensor in node.outputs if tensor.name in wanted]
