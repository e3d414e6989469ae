from __future__ import annotations

import numpy as np
import pytest

from rtc.calibration.histogram import Histogram, chunks


def filled(*parts: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part, float(part.min()), float(part.max()))
    return histogram


def test_every_value_is_counted_however_the_range_grows() -> None:
    rng = np.random.default_rng(0)
    parts = [
        rng.normal(shift, size, 3000).astype(np.float32)
        for shift, size in ((0, 1e-3), (5, 1), (-40, 10), (1000, 1))
    ]
    histogram = filled(*parts)
    values = np.concatenate(parts)
    assert histogram.counts.sum() == len(values)
    centres, counts = histogram.occupied()
    nearest = np.abs(np.sort(values)[:, None] - np.repeat(centres, counts)[:, None]).max()
    assert nearest <= histogram.width
    span = values.max() - values.min()
    assert histogram.width * histogram.BINS <= 4 * span


def test_quantiles_leave_as_many_outside_as_they_may() -> None:
    values = np.random.default_rng(1).permutation(np.arange(10_000, dtype=np.float32))
    low, high = filled(values).quantile_range(100)
    assert low == pytest.approx(100, abs=3)
    assert high == pytest.approx(9_899, abs=3)
    assert (values < low).sum() <= 100
    assert (values > high).sum() <= 100


def test_one_value_alone_and_none() -> None:
    histogram = filled(np.full(7, 3.5, np.float32))
    centres, counts = histogram.occupied()
    assert counts.tolist() == [7]
    assert centres[0] == pytest.approx(3.5, rel=1e-5)
    empty = Histogram()
    empty.add(np.zeros(0, np.float32), np.inf, -np.inf)
    assert empty.counts.sum() == 0


def test_pieces_are_all_of_an_array_once() -> None:
    values = np.arange(600_000, dtype=np.float32).reshape(600, 1000)
    assert np.array_equal(np.concatenate(list(chunks(values))), values.reshape(-1))
    assert max(len(piece) for piece in chunks(values)) < 600_000
