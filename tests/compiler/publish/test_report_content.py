from __future__ import annotations

import pytest

from rtc.compiler.core.evidence import Measured
from rtc.compiler.core.intervals import wilson
from rtc.compiler.core.results import AccuracyRow, SearchRow, TrialRow
from rtc.compiler.core.verdicts import TrialState
from rtc.compiler.publish.report_content import _cut_short, _few, _unlimited
from rtc.compiler.search.mix import _words

FLOAT = TrialRow("float", TrialState.BEST, {"fp32": 3}, -120.0, (1.0, 0.99, 1.0), None, None, None)


@pytest.mark.parametrize(
    ("trials", "ended", "told"),
    [((FLOAT,), False, True), ((FLOAT,), True, False), ((FLOAT, FLOAT), False, False)],
    ids=["float alone", "nothing to choose", "plans were tried"],
)
def test_the_report_tells_of_a_search_that_was_cut_short(
    trials: tuple[TrialRow, ...], ended: bool, told: bool
) -> None:
    row = SearchRow("openvino mix", "fast", 64, 300, 1.0, ended, True, trials, (), {})
    notes = _cut_short([row])
    assert bool(notes) is told
    assert not notes or "openvino mix" in notes[0]
    assert ("the rules' plan" in _words(row)) is told
    assert told or f"{len(trials)} plan" + "s" * (len(trials) > 1) + " tried" in _words(row)


def test_the_report_tells_of_a_search_that_failed() -> None:
    row = SearchRow("openvino mix", "", 0, 0, 1.0, False, False, (), (), {}, failed="no evidence")
    assert _cut_short([row]) == [
        "The search for openvino mix failed, so its plan is the rules': no evidence"
    ]


def test_other_classes_that_no_gate_limits_are_a_doubt() -> None:
    def engine(share: float, high: float) -> AccuracyRow:
        same = Measured(share, "fraction", "here", 97, share - 0.1, high)
        return AccuracyRow("shipped engine", same, None, same, same, "here")

    (note,) = _unlimited(engine(0.402, 0.5), ["chance", "contract"])
    assert "another than the float model's on 59.80 % of 97 test samples" in note
    assert not _unlimited(engine(0.402, 0.5), ["parity"])
    assert not _unlimited(engine(0.93, 0.96), [])  # chance may be the reason


@pytest.mark.parametrize(
    ("same", "samples", "doubt"),
    [(4, 4, True), (70, 70, True), (100, 100, False), (950, 1000, False)],
)
def test_few_test_samples_are_a_doubt(same: int, samples: int, doubt: bool) -> None:
    share = wilson(same, samples)
    agreement = Measured(share.value, "fraction", "here", samples, share.low, share.high)
    told = _few(AccuracyRow("engine", agreement, None, agreement, agreement, "here"))
    assert bool(told) is doubt
    assert not told or f"{samples} test samples are few" in told[0]
