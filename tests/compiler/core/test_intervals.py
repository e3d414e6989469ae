"""Intervals against published ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtc.compiler.core import intervals


@pytest.mark.parametrize(
    ("answers", "labels"),
    [([0, 1, 2, 0, 1, 2], [0, 0, 0, 1, 1, 2]), ([0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 3])],
)
def test_guessing_is_what_all_orders_of_the_answers_come_to(
    answers: list[int], labels: list[int]
) -> None:
    shares = [np.mean(np.array(each) == labels) for each in itertools.permutations(answers)]
    found = intervals.guessing(np.array(answers), np.array(labels))
    assert found.value == pytest.approx(np.mean(shares))
    assert found.high == pytest.approx(min(1.0, np.mean(shares) + intervals.Z * np.std(shares)))


def test_guessing_of_answers_that_are_all_the_same_is_right_as_often_as_these() -> None:
    labels = np.array([0] * 9 + [1])
    found = intervals.guessing(np.zeros(10, np.int64), labels)
    assert (found.low, found.value, found.high) == pytest.approx((0.9, 0.9, 0.9))


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [  # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_as_published(successes: int, total: int, low: float, high: float) -> None:
    told = intervals.wilson(successes, total)
    assert told.value == successes / total
    assert (told.low, told.high) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 5000), st.data())
def test_wilson_stays_between_0_and_1_and_holds_the_estimate(
    total: int, data: st.DataObject
) -> None:
    told = intervals.wilson(data.draw(st.integers(0, total)), total)
    assert 0 <= told.low <= told.value + 1e-12
    assert told.value - 1e-12 <= told.high <= 1


def pairs(both: int, lost: int, won: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    before = np.repeat([True, True, False, False], [both, lost, won, neither])
    after = np.repeat([True, False, True, False], [both, lost, won, neither])
    return before, after


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998) 2635-2650, method 10
        ((36, 12, 2, 0), 0.0569, 0.3404),
        ((54, 0, 0, 0), -0.0664, 0.0664),
        # Fagerland, Lydersen and Laake, Statistics in Medicine 33 (2014) 2850-2875: Bentur et al.
        ((1, 1, 7, 12), -0.507, -0.026),
    ],
)
def test_paired_difference_as_published(
    table: tuple[int, int, int, int], low: float, high: float
) -> None:
    told = intervals.paired_difference(*pairs(*table))
    assert told.value == pytest.approx((table[1] - table[2]) / sum(table))
    assert (told.low, told.high) == pytest.approx((low, high), abs=5e-4)


def test_a_difference_changes_its_sign_with_its_sides() -> None:
    before, after = pairs(40, 6, 1, 5)
    there, back = (intervals.paired_difference(*s) for s in ((before, after), (after, before)))
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


def test_the_interval_of_a_mean_by_hand() -> None:
    told = intervals.mean_interval([1.0, 2.0, 3.0, 4.0])
    error = 1.959964 * np.sqrt(5 / 3) / 2
    assert (told.value, told.low, told.high) == pytest.approx((2.5, 2.5 - error, 2.5 + error))
