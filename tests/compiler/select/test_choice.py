"""Which candidate ships, for figures that are set by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from rtc.compiler.building.builder import Candidate
from rtc.compiler.candidates.offer import Missing
from rtc.compiler.core.errors import BuilderError
from rtc.compiler.core.evidence import Estimated, Evidence, Measured
from rtc.compiler.core.precision import LayerDecision, Precision, PrecisionPlan, Variant
from rtc.compiler.core.results import AccuracyRow, LatencyRow
from rtc.compiler.core.target import BuildRequest, Built
from rtc.compiler.core.unit import OnnxModel, Signature, Unit
from rtc.compiler.core.verdicts import CandidateState, LatencyMode
from rtc.compiler.measure.comparison import Case, Comparison, Series
from rtc.compiler.measure.statistics import Interval
from rtc.compiler.recipe.sections import Gates
from rtc.compiler.select.choice import Selection, choose
from rtc.compiler.select.measuring import Appraisal, Appraised, fastest_float
from rtc.targets import loader

BATCH = 16
CASE = Case("forward", BATCH)
GRAPH = Unit(OnnxModel(b""), Signature((), ()))


def candidate(variant: Variant, pins: Mapping[str, Precision] | None = None) -> Candidate:
    """ "rt int8": a candidate that the choice only knows by its plan."""
    quantises = variant in (Variant.INT8, Variant.MIX)
    default = Precision.INT8 if quantises else Precision.FP32
    planned = {"fc": default, **(pins or {})}
    plan = PrecisionPlan(
        model="sha256:0",
        target="cpu",
        variant=variant,
        default=Precision.FP32,
        layers={name: LayerDecision(each, "by hand") for name, each in planned.items()},
    )
    return Candidate(
        name=f"rt {variant}",
        backend="rt",
        variant=variant,
        plan=plan,
        graph=GRAPH,
        built=Built(b"", (), "rt 1.0", {}),
        layers=(),
        certificates=(),
        request=BuildRequest(loader.profile("cpu"), (1, BATCH, BATCH)),
    )


def quality(top1: float) -> AccuracyRow:
    share = Measured(top1, "fraction", "here", 1000)
    return AccuracyRow("engine", share, None, Measured(0.1, "nats", "here", 1000), share, "here")


def measured(ms: float) -> Measured:
    return Measured(ms, "ms", "here", 100)


def appraisal(
    latency: Evidence,
    *,
    top1: float = 0.99,
    over_float: Interval | None = None,
    agreement: float | None = None,
) -> Appraisal:
    rows = tuple(LatencyRow("engine", mode, BATCH, latency) for mode in LatencyMode)
    found = quality(top1)
    if agreement is not None:
        found = replace(found, agreement=Measured(agreement, "fraction", "here", 1000))
    return Appraisal(found, rows, over_float)


def chosen(
    of: Mapping[Variant, Appraisal],
    *,
    failed: Mapping[Variant, str] | None = None,
    missing: tuple[Missing, ...] = (),
    gates: Gates | None = None,
    accurate: bool = False,
) -> Selection:
    """The choice among candidates with these figures; the float model's top-1 is 99 %."""
    failed = failed or {}
    return choose(
        gates or Gates(),
        [candidate(variant) for variant in (*of, *failed)],
        missing,
        appraised=Appraised(
            of={f"rt {variant}": each for variant, each in of.items()},
            failed={f"rt {variant}": reason for variant, reason in failed.items()},
            float_model=quality(0.99),
            baseline="torch eager",
            baseline_latency=(),
        ),
        batch=BATCH,
        accurate=accurate,
    )


def timed(**ms: float) -> Comparison:
    series = {f"rt {name}": Series(9.0, [np.array([each])] * 15) for name, each in ms.items()}
    return Comparison({CASE: series})


def test_the_float_yardstick_is_float_in_every_layer() -> None:
    pinned = candidate(Variant.FP32, {"conv": Precision.INT8})
    them = [pinned, candidate(Variant.HALF), candidate(Variant.INT8)]
    compared = timed(fp32=1, half=3, int8=2)
    assert fastest_float(them, compared, CASE) == "rt half"
    unpinned = candidate(Variant.FP32)
    assert fastest_float([unpinned, *them[1:]], compared, CASE) == "rt fp32"
    assert fastest_float([*them[1:], unpinned], compared, CASE) == "rt fp32"
    assert fastest_float([pinned], compared, CASE) == ""


def test_a_busy_moment_does_not_decide_between_candidates() -> None:
    # The medians say otherwise: int8 was timed when the machine was busy.
    told = chosen(
        {
            Variant.FP32: appraisal(measured(2), over_float=Interval(1, 1, 1)),
            Variant.MIX: appraisal(measured(1.0), over_float=Interval(1.9, 1.8, 2.0)),
            Variant.INT8: appraisal(measured(1.1), over_float=Interval(2.2, 2.1, 2.3)),
        }
    )
    assert [row.name for row in told.rows] == ["rt int8", "rt mix", "rt fp32"]


def test_where_every_engine_failed_the_error_lists_why() -> None:
    failed = {Variant.FP32: "it crashed", Variant.INT8: "logits are not finite"}
    with pytest.raises(BuilderError) as caught:
        chosen({}, failed=failed)
    assert caught.value.id == "no-candidate"
    assert "rt fp32: it crashed; rt int8: logits are not finite" in str(caught.value)


def test_the_fastest_of_equal_candidates_is_found_by_name() -> None:
    told = chosen({Variant.HALF: appraisal(measured(2)), Variant.FP32: appraisal(measured(2))})
    assert told.candidate.name == "rt fp32"
    assert [(row.name, row.state) for row in told.rows] == [
        ("rt fp32", "shipped"),
        ("rt half", "slower"),
    ]


def test_int8_ships_where_it_is_surely_faster() -> None:
    sure = appraisal(measured(1), over_float=Interval(2.0, 1.8, 2.2))
    told = chosen({Variant.FP32: appraisal(measured(2)), Variant.INT8: sure})
    assert told.candidate.name == "rt int8"
    assert told.passed


def test_int8_within_the_noise_comes_after_float_and_says_so() -> None:
    doubtful = appraisal(measured(1), over_float=Interval(1.2, 0.95, 1.4))
    told = chosen({Variant.INT8: doubtful, Variant.FP32: appraisal(measured(1.2))})
    assert told.candidate.name == "rt fp32"
    row = told.rows[-1]
    assert (row.name, row.state) == ("rt int8", "slower")
    assert "1.20× (95 % interval 0.95 to 1.40)" in row.reason


def test_the_most_accurate_within_a_latency_ships_where_that_is_asked_for() -> None:
    of = {
        Variant.FP32: appraisal(measured(4), agreement=1.0, over_float=Interval(1, 1, 1)),
        Variant.MIX: appraisal(measured(2), agreement=0.999, over_float=Interval(2, 1.9, 2.1)),
        Variant.INT8: appraisal(measured(1), agreement=0.995, over_float=Interval(4, 3.9, 4.1)),
    }
    within = Gates(latency_ms=3)
    told = chosen(of, gates=within, accurate=True)
    assert told.candidate.name == "rt mix"
    states = {row.name: row.state for row in told.rows}
    assert states == {"rt int8": "less accurate", "rt mix": "shipped", "rt fp32": "refused"}
    assert chosen(of, gates=within).candidate.name == "rt int8"
    assert chosen(of, gates=Gates(latency_ms=9), accurate=True).candidate.name == "rt fp32"


def test_a_faster_engine_that_fails_a_gate_is_refused() -> None:
    wrong = appraisal(measured(1), top1=0.5, over_float=Interval(4.0, 3.9, 4.1))
    told = chosen({Variant.INT8: wrong, Variant.FP32: appraisal(measured(4))})
    assert told.candidate.name == "rt fp32"
    assert [(row.name, row.state) for row in told.rows] == [
        ("rt int8", "refused"),
        ("rt fp32", "shipped"),
    ]
    assert "top-1 fell by 49.00 points" in told.rows[0].reason


def test_where_none_passes_nothing_ships_and_the_one_that_fails_fewest_gates_is_kept() -> None:
    slow = Gates(latency_ms=0.5)
    wrong = appraisal(measured(1), top1=0.5, over_float=Interval(2.0, 1.9, 2.1))
    told = chosen({Variant.INT8: wrong, Variant.FP32: appraisal(measured(2))}, gates=slow)
    assert told.candidate.name == "rt fp32"
    assert not told.passed
    assert [row.state for row in told.rows] == ["refused", "refused"]


@pytest.mark.parametrize(("ms", "ships"), [(1.0, "rt int8"), (1.8, "rt int8"), (1.9, "rt fp32")])
def test_an_estimate_must_be_a_tenth_faster_than_float(ms: float, ships: str) -> None:
    foreseen = {
        Variant.FP32: appraisal(Estimated(2.0, "ms", "roofline")),
        Variant.INT8: appraisal(Estimated(ms, "ms", "roofline")),
    }
    told = chosen(foreseen)
    assert told.candidate.name == ships
    if ships == "rt fp32":
        assert "an estimated 1.05× the speed of the fastest float engine" in told.rows[1].reason


def test_candidates_without_figures_are_rows_with_their_reason() -> None:
    told = chosen(
        {Variant.FP32: appraisal(measured(2))},
        failed={Variant.INT8: "it crashed"},
        missing=(
            Missing("rt half", "rt", Variant.HALF, CandidateState.LEFT_OUT, "no native half type"),
        ),
    )
    rows = {row.name: (row.state, row.reason) for row in told.rows}
    assert rows["rt half"] == ("left out", "no native half type")
    assert rows["rt int8"] == ("failed", "it crashed")
