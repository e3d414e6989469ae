from __future__ import annotations

from dataclasses import replace

from rtc.compiler.core.evidence import Estimated, Evidence, Measured, Pending
from rtc.compiler.core.results import INCOMING_MODEL, AccuracyRow, GateRow, LatencyRow, LayerRow
from rtc.compiler.core.verdicts import LatencyMode, LayerVerdict
from rtc.compiler.recipe.sections import Gates
from rtc.compiler.select import gates


def fraction(value: float) -> Measured:
    return Measured(value, "fraction", "here", 1000)


def quality(top1: float, agreement: float | None = None) -> AccuracyRow:
    agrees = None if agreement is None else fraction(agreement)
    return AccuracyRow("engine", fraction(top1), fraction(1.0), fraction(0.1), agrees, "here")


def layer(verdict: LayerVerdict) -> LayerRow:
    return LayerRow("conv1", "Conv", "", "int8", "fp32", verdict, "")


def judged(
    asked: Gates, latency: Evidence | None = None, *, verdict: LayerVerdict = LayerVerdict.KEPT
) -> dict[str, GateRow]:
    evidence = latency or Measured(2.0, "ms", "here", 100)
    row = LatencyRow("engine", LatencyMode.END_TO_END, 32, evidence)
    found = gates.Findings(quality(0.95, 0.97), quality(0.96), row, [layer(verdict)])
    return {gate.name: gate for gate in gates.judge(asked, found)}


NONE = {"top1_drop": None, "parity": None, "chance": None}


def test_only_gates_that_the_recipe_names_are_judged() -> None:
    assert judged(Gates(**NONE)) == {}


def test_top1_drop_passes_at_the_limit_and_fails_beyond_it() -> None:
    assert judged(Gates(top1_drop=0.01, parity=None))["top1_drop"].passed
    failed = judged(Gates(top1_drop=0.0099, parity=None))["top1_drop"]
    assert failed.passed is False
    assert "1.00 points" in failed.reason


def test_top1_drop_counts_from_the_model_that_came_in_where_a_pass_changed_it() -> None:
    latency = LatencyRow("engine", LatencyMode.END_TO_END, 32, Measured(2.0, "ms", "here", 100))
    incoming = replace(quality(0.98), subject=INCOMING_MODEL)
    found = gates.Findings(quality(0.95), quality(0.95), latency, [], incoming)
    (row,) = gates.judge(Gates(**{**NONE, "top1_drop": 0.029}), found)
    assert not row.passed
    assert row.asked == "drop ≤ 2.90 pt from the model that came in"
    assert row.found == "+3.00 pt (98.00 → 95.00 %)"


def test_what_failed_is_told_beside_what_was_asked() -> None:
    rows = judged(Gates(**NONE, top1=0.96, latency_ms=0.1)).values()
    assert gates.reasons(rows) == (
        "top1: it is 95.00 % (asked: top-1 ≥ 96.00 %); latency_ms: the median is 2.000 ms"
        " (asked: end-to-end ≤ 0.1 ms at batch 32)"
    )


def test_parity_is_agreement_with_the_float_model() -> None:
    assert judged(Gates(top1_drop=None, parity=0.97))["parity"].passed
    assert judged(Gates(top1_drop=None, parity=0.98))["parity"].passed is False


def test_latency_and_fps_are_of_the_recipes_batch() -> None:
    rows = judged(Gates(**NONE, latency_ms=2.5, fps=17_000))
    assert rows["latency_ms"].passed
    assert rows["fps"].passed is False  # 32 samples in 2 ms: 16,000 a second
    assert "16000" in rows["fps"].reason


def test_neither_an_estimate_nor_nothing_passes_or_fails_a_latency_gate() -> None:
    for evidence in (Estimated(0.1, "ms", "roofline"), Pending("ms", "rtx4060ti")):
        row = judged(Gates(**NONE, latency_ms=2.5), evidence)["latency_ms"]
        assert row.passed is None
        assert gates.all_passed([row])


def guessed(top1: float, high: float | None, asked: Gates | None = None) -> GateRow:
    guess = None if high is None else Measured(high - 0.02, "fraction", "here", 1000, 0, high)
    model = replace(quality(top1), guess=guess)
    latency = LatencyRow("engine", LatencyMode.END_TO_END, 32, Pending("ms", "rtx4060ti"))
    found = gates.Findings(quality(0.99), model, latency, [])
    return gates.judge(asked or Gates(), found)[0]


def test_a_float_model_that_guesses_fails_whatever_the_engine_does() -> None:
    row = guessed(0.11, 0.12)
    assert (row.name, row.passed) == ("chance", False)
    assert row.found == "11.00 % against 10.00 %, at most 12.00 %"
    assert guessed(0.0, 0.12).passed is False  # below chance
    assert guessed(0.13, 0.12).passed
    assert guessed(0.13, 0.12, Gates(chance=0.05)).passed is False
    assert guessed(0.11, 0.12, Gates(chance=None)).name != "chance"


def test_an_engine_that_guesses_fails_where_the_float_model_does_not() -> None:
    knows, guesses = (
        replace(quality(top1), guess=Measured(0.5, "fraction", "here", 1000, 0, 0.53))
        for top1 in (0.99, 0.51)
    )
    latency = LatencyRow("engine", LatencyMode.END_TO_END, 32, Pending("ms", "rtx4060ti"))
    (row,) = gates.judge(
        Gates(**{**NONE, "chance": 0.0}), gates.Findings(guesses, knows, latency, [])
    )
    assert row.passed is False
    assert "the engine's top-1, 51.00 %" in row.reason


def test_samples_that_cannot_tell_knowing_from_guessing_fail_nobody() -> None:
    row = guessed(1.0, None)
    assert row.passed
    assert "too few samples" in row.reason


def test_gates_in_absolute_values() -> None:
    rows = judged(Gates(**NONE, top1=0.95, loss=0.1))
    assert rows["top1"].passed
    assert rows["loss"].passed
    rows = judged(Gates(**NONE, top1=0.96, loss=0.09))
    assert (rows["top1"].passed, rows["loss"].passed) == (False, False)
    assert rows["top1"].reason == "it is 95.00 %"


def test_a_strict_contract_names_the_layers_that_broke_it() -> None:
    row = judged(Gates(**NONE, contract="strict"), verdict=LayerVerdict.CHANGED)["contract"]
    assert row.passed is False
    assert "conv1 (int8 → fp32)" in gates.reasons([row])
    assert judged(Gates(**NONE, contract="strict"))["contract"].passed


def test_too_few_samples_are_noted_where_they_leave_the_drop_open() -> None:
    few = Measured(1.0, "fraction", "here", 3, 0.44, 1.0)
    engine = AccuracyRow("engine", fraction(0.96), fraction(1.0), fraction(0.1), few, "here")
    latency = LatencyRow("engine", LatencyMode.END_TO_END, 32, Pending("ms", "rtx4060ti"))
    (row,) = gates.judge(
        Gates(**{**NONE, "top1_drop": 0.01}), gates.Findings(engine, quality(0.96), latency, [])
    )
    assert row.passed
    assert "3 samples are few" in row.reason


def test_a_strict_contract_does_not_pass_on_a_builders_silence() -> None:
    row = judged(Gates(**NONE, contract="strict"), verdict=LayerVerdict.UNKNOWN)["contract"]
    assert row.passed is False
    assert "does not tell the precision of conv1" in row.reason
    assert "1 unknown" in row.found
