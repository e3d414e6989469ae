"""Against values from the literature, and computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rtc.compiler.measure import statistics


def test_a_summary_by_hand() -> None:
    told = statistics.summarise([4.0, 1.0, 2.0, 3.0, 10.0])
    assert (told.count, told.first, told.minimum, told.maximum) == (5, 4.0, 1.0, 10.0)
    assert told.mean == 4.0
    assert told.median == told.percentiles["p50"] == 3.0
    assert told.std == pytest.approx(np.sqrt((0 + 9 + 4 + 1 + 36) / 4))
    assert told.percentiles["p90"] == pytest.approx(4 + 0.6 * 6)  # rank 3.6 of 0 to 4
    assert list(told.percentiles) == ["p50", "p90", "p95", "p97", "p99", "p99.9"]
    assert told.variation == pytest.approx(told.std / 4)


def test_outliers_lie_beyond_three_sigma() -> None:
    assert statistics.summarise([1.0, 1.1] * 50 + [9.0]).outliers == 1
    assert statistics.summarise([1.0, 1.1] * 50).outliers == 0


def test_one_observation_has_no_spread() -> None:
    told = statistics.summarise([2.5])
    assert (told.std, told.variation, told.outliers) == (0.0, 0.0, 0)


def test_a_ratio_by_rounds_does_not_see_drift_that_both_share() -> None:
    drift = np.linspace(1, 3, 12)
    rng = np.random.default_rng(1)
    slow = [2 * d * rng.normal(1, 0.01, 50) for d in drift]
    fast = [d * rng.normal(1, 0.01, 50) for d in drift]
    told = statistics.ratio_by_rounds(slow, fast, resamples=200)
    assert told.low <= told.value <= told.high
    assert told.value == pytest.approx(2, abs=0.02)
    assert told.high - told.low < 0.02
    assert told == statistics.ratio_by_rounds(slow, fast, resamples=200)


def test_equal_rounds_have_the_ratio_one_exactly() -> None:
    same = [np.array([1.0, 2.0, 5.0]), np.array([2.0, 2.5])]
    told = statistics.ratio_by_rounds(same, same, resamples=50)
    assert (told.value, told.low, told.high) == (1, 1, 1)


def test_thinning_keeps_both_ends_and_never_adds() -> None:
    assert statistics.thin(np.arange(1000), 5).tolist() == [0, 250, 500, 749, 999]
    assert statistics.thin(np.arange(3), 5).tolist() == [0, 1, 2]
