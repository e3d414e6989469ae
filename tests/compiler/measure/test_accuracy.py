"""Scores by hand, and that nothing without a score gets one."""

from __future__ import annotations

import numpy as np
import pytest

from rtc.compiler.core import intervals
from rtc.compiler.core.errors import DataError, GateError, ModelError
from rtc.compiler.core.evidence import Measured
from rtc.compiler.core.outputs import OutputKind
from rtc.compiler.core.results import AccuracyRow
from rtc.compiler.measure import accuracy

LABELS = np.array([0, 1, 2, 0])
LOGITS = np.array(
    [[3.0, 1, 0, 0, 0, 0, 0], [5.0, 4, 0, 0, 0, 0, 0], [9, 8, 1, 7, 6, 5, 4], [2, 1, 0, 0, 0, 0, 0]]
)  # right · second · seventh · right


def score(logits: np.ndarray, float_logits: np.ndarray | None = None) -> AccuracyRow:
    return scored(logits, LABELS, float_logits)


def scored(
    outputs: np.ndarray,
    labels: np.ndarray,
    floats: np.ndarray | None = None,
    kind: OutputKind = OutputKind.LOGITS,
) -> AccuracyRow:
    return accuracy.accuracy_row("engine", outputs, labels, floats, "here", kind=kind)


def test_top1_top5_and_their_intervals() -> None:
    row = score(LOGITS)
    wilson = intervals.wilson(2, 4)
    assert row.top1 == Measured(0.5, "fraction", "here", 4, wilson.low, wilson.high)
    assert row.top5.value == 0.75
    assert row.agreement is None


@pytest.mark.parametrize(("classes", "told"), [(3, False), (5, False), (6, True)])
def test_top5_is_told_of_more_than_five_classes_only(classes: int, told: bool) -> None:
    assert (score(LOGITS[:, :classes]).top5 is not None) is told


def test_probabilities_have_the_loss_and_the_ranks_of_the_logits_behind_them() -> None:
    logits = np.random.default_rng(0).normal(size=(200, 10)) * 3
    labels = np.random.default_rng(1).integers(10, size=200)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    wanted = scored(logits, labels)
    for outputs, kind in (
        (p, OutputKind.PROBABILITIES),
        (np.log(p), OutputKind.LOG_PROBABILITIES),
    ):
        found = scored(outputs.astype(np.float32), labels, kind=kind)
        assert (found.top1, found.top5) == (wanted.top1, wanted.top5)
        assert found.loss.value == pytest.approx(wanted.loss.value, rel=1e-5)


def test_probabilities_below_the_least_still_have_an_order() -> None:
    p = np.array([[0.0, 1e-12, 1e-11, 1e-10, 1e-9, 1e-8, 1.0]])
    row = scored(p, np.array([1]), kind=OutputKind.PROBABILITIES)
    assert (row.top1.value, row.top5.value) == (0.0, 0.0)  # sixth
    assert row.loss.value == pytest.approx(15.94, abs=0.01)


def test_loss_by_hand_and_for_logits_too_large_to_exponentiate() -> None:
    two = np.array([[0.0, 0.0], [0.0, np.log(3)]])
    told = accuracy.losses(two, np.array([0, 1]))
    assert told == pytest.approx([np.log(2), np.log(4 / 3)])
    assert accuracy.losses(two * 0 + [[5000.0, 0.0]], np.array([1, 0])) == pytest.approx([5000, 0])


def test_a_constant_output_is_right_for_one_class_only() -> None:
    assert accuracy.ranks(np.zeros((3, 3)), np.array([0, 1, 2])).tolist() == [0, 1, 2]


def told_from_guessing(answers: list[int], labels: list[int]) -> bool | None:
    return accuracy.better_than_guessing(scored(np.eye(3)[answers], np.array(labels)))


def test_what_guesses_is_told_from_what_knows() -> None:
    rare = [0] * 90 + [1] * 10
    assert told_from_guessing([0] * 100, rare) is False  # 90 % right, and knows nothing
    assert told_from_guessing([0] * 80 + [1] * 20, rare) is True  # as often right, and knows
    assert told_from_guessing([1] * 90 + [2] * 10, rare) is False  # never right
    draw = np.random.default_rng(0)
    assert told_from_guessing(*draw.integers(3, size=(2, 500)).tolist()) is False


def test_few_samples_or_one_class_tell_nothing() -> None:
    assert told_from_guessing([0, 1], [0, 1]) is None
    assert told_from_guessing([0] * 50, [0] * 50) is None
    assert told_from_guessing([0], [0]) is None


def test_agreement_counts_equal_predictions_whatever_the_labels() -> None:
    other = LOGITS.copy()
    other[1, 1] = 6.0
    told = score(LOGITS, other).agreement
    assert isinstance(told, Measured)
    assert told.value == 0.75
    assert score(LOGITS, LOGITS).agreement == score(LOGITS, 2 * LOGITS).agreement


def test_a_drop_is_before_minus_after() -> None:
    after = LOGITS.copy()
    after[0] = [0, 9, 0, 0, 0, 0, 0]
    told = accuracy.top1_drop(LOGITS, after, LABELS, "here")
    assert (told.value, told.unit, told.samples) == (0.25, "fraction", 4)
    assert told.low is not None
    assert told.low < 0  # four samples prove nothing


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused_and_named(bad: float) -> None:
    broken = LOGITS.copy()
    broken[2, 3] = bad
    with pytest.raises(GateError, match=r"engine, sample 2: outputs of 1 of 4 samples") as caught:
        score(broken)
    assert caught.value.id == "not-finite"
    with pytest.raises(GateError, match="float model, sample 2"):
        score(LOGITS, broken)


@pytest.mark.parametrize("shape", [(3, 7), (4,), (4, 7, 1)])
def test_what_is_not_a_row_of_classes_per_sample_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="not a classifier's output"):
        score(np.zeros(shape))


@pytest.mark.parametrize("label", [-1, 7])
def test_a_label_without_a_class_is_refused(label: int) -> None:
    with pytest.raises(DataError, match=f"seen {label}, expected 0 to 6"):
        scored(LOGITS, np.array([0, 1, 2, label]))


def test_no_samples_have_no_accuracy() -> None:
    with pytest.raises(DataError, match="no samples"):
        scored(np.zeros((0, 3)), np.zeros(0, np.int64))
