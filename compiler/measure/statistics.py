"""Summaries of timings, and ratios of series that took turns, with confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rtc.compiler.core.arrays import Array, Float64Array
from rtc.compiler.core.intervals import CONFIDENCE, Interval

PERCENTILES = (50.0, 90.0, 95.0, 97.0, 99.0, 99.9)


@dataclass(frozen=True)
class Summary:
    """A series of timings, in the series' own unit.

    `percentiles` by name ("p50" … "p99.9", linear interpolation between order statistics), and
    `low` and `high`, the 5th and the 95th. `std` is that of the sample (n - 1); `outliers` counts
    observations further than 3 `std` from the mean; `first` is the first of the series.
    """

    count: int
    first: float
    mean: float
    std: float
    minimum: float
    maximum: float
    median: float
    low: float
    high: float
    percentiles: Mapping[str, float]
    outliers: int

    @property
    def variation(self) -> float:
        """Coefficient of variation: std / mean."""
        return self.std / self.mean if self.mean else 0.0


def summarise(series: npt.ArrayLike) -> Summary:
    """Summarise at least one observation."""
    x = np.asarray(series, np.float64)
    mean = float(x.mean())
    std = float(x.std(ddof=1)) if len(x) > 1 else 0.0
    low, high, median = np.percentile(x, (5, 95, 50))
    named = zip(PERCENTILES, np.percentile(x, PERCENTILES), strict=True)
    return Summary(
        count=len(x),
        first=float(x[0]),
        mean=mean,
        std=std,
        minimum=float(x.min()),
        maximum=float(x.max()),
        median=float(median),
        low=float(low),
        high=float(high),
        percentiles={f"p{rank:g}": float(value) for rank, value in named},
        outliers=int(np.count_nonzero(np.abs(x - mean) > 3 * std)),
    )


def thin(series: Array, count: int) -> Array:
    """At most `count` of a series, evenly spaced, first and last included."""
    if len(series) <= count:
        return series
    kept: Array = series[np.linspace(0, len(series) - 1, count).round().astype(int)]
    return kept


def ratio_by_rounds(
    numerator: Sequence[Float64Array],
    denominator: Sequence[Float64Array],
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> Interval:
    """The typical ratio of two series that were timed in rounds, side by side.

    Of each round the ratio of both medians is taken: what else the machine does then, and how fast
    its clock runs, falls on both alike. The value is the median of these ratios; where the machine
    is busy it is several times steadier than a ratio of medians over everything. The interval is a
    percentile bootstrap (Efron & Tibshirani 1993, chapter 13) over rounds, since timings within a
    round are not independent.

    Args:
        numerator: one array of timings for each round.
        denominator: likewise, as many.
        seed: of the resampling.
        resamples: how often the rounds are drawn anew.
    """
    pairs = zip(numerator, denominator, strict=True)
    ratios = np.array([np.median(above) / np.median(below) for above, below in pairs])
    chosen = np.random.default_rng(seed).integers(len(ratios), size=(resamples, len(ratios)))
    drawn = np.median(ratios[chosen], axis=1)
    low, high = np.percentile(drawn, (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)))
    return Interval(float(np.median(ratios)), float(low), float(high))
