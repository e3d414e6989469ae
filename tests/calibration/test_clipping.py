from __future__ import annotations

import numpy as np
import pytest

from rtc.calibration.clipping import (
    AFFINE_STEPS,
    divergence,
    least_divergence,
    least_squares,
    squared_error,
)
from rtc.calibration.histogram import Histogram

RNG = np.random.default_rng(0)


def of(values: np.ndarray) -> tuple[Histogram, tuple[float, float]]:
    histogram = Histogram()
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    histogram.add(values, float(values.min()), float(values.max()))
    return histogram, (low, high)


def test_the_error_is_that_of_rounding_in_the_range() -> None:
    values = RNG.uniform(-1, 3, 5000)
    counts = np.ones(5000, np.int64)
    scale = 4 / AFFINE_STEPS
    zero = np.rint(-1 / scale)
    restored = np.clip(np.rint(values / scale), zero, zero + AFFINE_STEPS) * scale
    wanted = np.square(restored - values).mean()
    seen = squared_error(values, counts, (-1.0, 3.0), AFFINE_STEPS)
    assert seen == pytest.approx(wanted)
    assert seen == pytest.approx(scale**2 / 12, rel=0.1)


def test_the_least_squares_are_no_worse_than_any_other_range() -> None:
    values = np.append(RNG.uniform(-0.3, 2, 50_000), [-9.0, 7.0]).astype(np.float32)
    histogram, seen = of(values)
    affine, limit = least_squares(histogram, seen)
    centres, counts = histogram.occupied()
    best = squared_error(centres, counts, affine, AFFINE_STEPS)
    lows, highs = np.linspace(-9, -0.2, 25), np.linspace(1, 7, 25)
    others = (squared_error(centres, counts, (a, b), AFFINE_STEPS) for a in lows for b in highs)
    assert best <= 1.05 * min(others)
    assert best < 0.95 * squared_error(centres, counts, seen, AFFINE_STEPS)
    assert 2 < limit < 9


@pytest.mark.parametrize("choose", [least_squares, least_divergence])
def test_an_even_spread_is_kept(choose) -> None:
    even = RNG.uniform(-2, 2, 200_000).astype(np.float32)
    (low, high), limit = choose(*of(even))
    assert limit == pytest.approx(2, rel=0.1)
    assert high - low == pytest.approx(4, rel=0.15)


def test_the_least_divergence_cares_little_for_outliers() -> None:
    bulk = RNG.normal(0, 1, 200_000).astype(np.float32)
    (low, high), limit = least_divergence(*of(np.append(bulk, np.float32([60.0, -60.0]))))
    assert limit < 30
    assert high - low < 60


def test_a_range_without_a_value_diverges_without_end() -> None:
    values, counts = np.array([5.0, 6.0]), np.array([3, 4])
    assert divergence(values, counts, (-1.0, 1.0), AFFINE_STEPS) == float("inf")
