"""Observers: the range of a tensor, from values that stream past once. Memory is fixed.

`OBSERVERS` maps a kind's name to its class; a kind may carry a number ("percentile:99.9"). Another
kind is another class in that table.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np

from rtc.compiler.core.data import Array
from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.naming import nearest
from rtc.compiler.core.passes import TensorRange


class Observer(ABC):
    """Sees a tensor batch by batch and says which range to quantise."""

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf
        self.samples = 0

    def update(self, values: Array) -> None:
        """Take in a batch (N, …) of finite floats."""
        low, high = float(values.min()), float(values.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.samples += len(values)
        self._take(values, low, high)

    def result(self, kind: str) -> TensorRange:
        """The range, widened so that it holds zero and is not empty: its scale is positive."""
        low, high = self._range()
        low, high = min(low, 0.0), max(high, 0.0)
        if low == high:
            high = 1.0  # only zeros were seen: any scale represents them
        return TensorRange(low, high, self.low, self.high, kind, self.samples)

    @abstractmethod
    def _take(self, values: Array, low: float, high: float) -> None:
        """Take in what the extremes of a batch do not tell."""

    @abstractmethod
    def _range(self) -> tuple[float, float]:
        """The range to quantise, of all values so far."""


class MinMax(Observer):
    """From the least to the greatest value."""

    def _take(self, values: Array, low: float, high: float) -> None:
        """The extremes say it all."""

    def _range(self) -> tuple[float, float]:
        return self.low, self.high


class Percentile(Observer):
    """Two-sided percentile of a histogram that doubles its width when a value falls outside.

    Doubling merges pairs of bins, so what was counted stays counted, and the bins (8,192) stay at
    least 2,048 over the range seen. With 99.99, the lowest and the highest 0.01 % are clipped.
    """

    BINS = 8192

    def __init__(self, percent: float = 99.99) -> None:
        super().__init__()
        self._tail = (100.0 - percent) / 100.0
        self._counts = np.zeros(self.BINS, np.int64)
        self._start = self._width = 0.0  # of the histogram: its left edge and a bin's width

    def _take(self, values: Array, low: float, high: float) -> None:
        if self._width == 0.0:
            span = max(
                high - low, 1e-6 * max(abs(low), abs(high)), float(np.finfo(np.float32).tiny)
            )
            self._start, self._width = low, span / (self.BINS - 1)
        while low < self._start:
            self._start -= self._width * self.BINS
            self._merge(self.BINS // 2)
        while high >= self._start + self._width * self.BINS:
            self._merge(0)
        scaled = (values.ravel() - np.float64(self._start)) / self._width
        places = np.clip(scaled.astype(np.int64), 0, self.BINS - 1)
        self._counts += np.bincount(places, minlength=self.BINS)

    def _merge(self, at: int) -> None:
        """Double the bins' width; what was counted goes to one half, which starts at `at`."""
        half = self.BINS // 2
        merged = self._counts.reshape(half, 2).sum(axis=1)
        self._counts = np.zeros(self.BINS, np.int64)
        self._counts[at : at + half] = merged
        self._width *= 2

    def _range(self) -> tuple[float, float]:
        total = np.cumsum(self._counts)
        clipped = self._tail * total[-1]
        first = int(np.searchsorted(total, clipped, side="right"))
        last = int(np.searchsorted(total, total[-1] - clipped, side="left"))
        low = self._start + first * self._width
        high = self._start + (last + 1) * self._width
        return max(low, self.low), min(high, self.high)


OBSERVERS: Mapping[str, type[Observer]] = {"minmax": MinMax, "percentile": Percentile}


def make_observer(kind: str) -> Observer:
    """A new observer of a kind: "minmax", "percentile", "percentile:99.9".

    Raises:
        RecipeError: no such kind, or a number that it does not take.
    """
    name, _, number = kind.partition(":")
    if name not in OBSERVERS:
        raise RecipeError(
            f"no observer is called {name!r}",
            where="precision.observer",
            fix=nearest(name, OBSERVERS),
            id="no-observer",
        )
    if not number:
        return OBSERVERS[name]()
    try:
        percent = float(number)
    except ValueError:
        percent = math.nan
    if name != "percentile" or not 50.0 < percent <= 100.0:
        raise RecipeError(
            "not an observer's number",
            where="precision.observer",
            seen=repr(kind),
            expected="percentile:P with 50 < P <= 100",
            id="no-observer",
        )
    return Percentile(percent)
