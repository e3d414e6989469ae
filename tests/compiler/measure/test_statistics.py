"""Against values from the literature, and computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_signal_to_noise_by_hand() -> None:
    signal = np.array([[3.0, 4.0], [0.0, 0.0]])
    assert statistics.snr_db(signal, signal + np.array([[0.0, 0.5], [0.0, 0.0]])) == pytest.approx(
        20
    )
    assert statistics.snr_db(signal, signal) == np.inf
    assert statistics.snr_db(np.zeros(2), np.ones(2)) == -np.inf
    assert np.isnan(statistics.snr_db(signal, np.full((2, 2), np.nan)))
    assert np.isnan(statistics.snr_db(signal, np.full((2, 2), np.inf)))


def test_outliers_lie_beyond_three_sigma() -> None:
    assert statistics.summarise([1.0, 1.1] * 50 + [9.0]).outliers == 1
    assert statistics.summarise([1.0, 1.1] * 50).outliers == 0


def test_one_observation_has_no_spread() -> None:
    told = statistics.summarise([2.5])
    assert (told.std, told.variation, told.outliers) == (0.0, 0.0, 0)


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
    told = statistics.wilson(successes, total)
    assert told.value == successes / total
    assert (told.low, told.high) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 5000), st.data())
def test_wilson_stays_between_0_and_1_and_holds_the_estimate(
    total: int, data: st.DataObject
) -> None:
    told = statistics.wilson(data.draw(st.integers(0, total)), total)
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
    told = statistics.paired_difference(*pairs(*table))
    assert told.value == pytest.approx((table[1] - table[2]) / sum(table))
    assert (told.low, told.high) == pytest.approx((low, high), abs=5e-4)


def test_a_difference_changes_its_sign_with_its_sides() -> None:
    before, after = pairs(40, 6, 1, 5)
    there, back = (statistics.paired_difference(*s) for s in ((before, after), (after, before)))
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


def test_the_interval_of_a_mean_by_hand() -> None:
    told = statistics.mean_interval([1.0, 2.0, 3.0, 4.0])
    error = 1.959964 * np.sqrt(5 / 3) / 2
    assert (told.value, told.low, told.high) == pytest.approx((2.5, 2.5 - error, 2.5 + error))


def test_a_ratio_of_medians_does_not_see_drift_that_both_share() -> None:
    drift = np.linspace(1, 3, 12)
    rng = np.random.default_rng(1)
    slow = [2 * d * rng.normal(1, 0.01, 50) for d in drift]
    fast = [d * rng.normal(1, 0.01, 50) for d in drift]
    told = statistics.ratio_of_medians(slow, fast, resamples=200)
    assert told.low <= told.value <= told.high
    assert told.value == pytest.approx(2, abs=0.1)
    assert told == statistics.ratio_of_medians(slow, fast, resamples=200)


def test_equal_rounds_have_the_ratio_one_exactly() -> None:
    same = [np.array([1.0, 2.0, 5.0]), np.array([2.0, 2.5])]
    told = statistics.ratio_of_medians(same, same, resamples=50)
    assert (told.value, told.low, told.high) == (1, 1, 1)


def test_thinning_keeps_both_ends_and_never_adds() -> None:
    assert statistics.thin(np.arange(1000), 5).tolist() == [0, 250, 500, 749, 999]
    assert statistics.thin(np.arange(3), 5).tolist() == [0, 1, 2]
