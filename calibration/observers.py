"""Observers: the range of a tensor, from values that stream past once. Memory is fixed.

`OBSERVERS` maps a kind's name to its class; a kind may carry a number ("percentile:99.9"). Another
kind is another class in that table.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from rtc.calibration import clipping
from rtc.calibration.histogram import Histogram, chunks
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.naming import nearest
from rtc.compiler.core.passes import TensorRange

Range = tuple[float, float]


class Choice(NamedTuple):
    """A range to quantise, and what a kind that chooses among others chose."""

    range: Range
    limit: float | None = None  # of a symmetric one, where it is not the range's maximum
    by: str = ""


class Observer(ABC):
    """Sees a tensor batch by batch and says which range to quantise."""

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf
        self.samples = 0

    def update(self, values: Array) -> bool:
        """Take in a batch (N, …) of floats; False where one is not finite.

        The observer is of no use then: what came before it in the batch may have been taken in.
        """
        for chunk in chunks(values):
            low, high = float(chunk.min()), float(chunk.max())
            if not math.isfinite(low) or not math.isfinite(high):
                return False
            self.low, self.high = min(self.low, low), max(self.high, high)
            self._take(chunk, low, high)
        self.samples += len(values)
        return True

    def result(self, kind: str) -> TensorRange:
        """The range; it holds zero and is not empty, so that its scale is positive."""
        if self.seen == (0.0, 0.0):
            return TensorRange(0.0, 1.0, 0.0, 0.0, kind, self.samples)  # any scale represents zero
        (low, high), limit, by = self._choose()
        low, high = min(low, 0.0), max(high, 0.0)
        kind = f"{kind}: {by}" if by else kind
        return TensorRange(low, high, self.low, self.high, kind, self.samples, limit)

    @property
    def seen(self) -> Range:
        """The extremes, widened so that they hold zero."""
        return min(self.low, 0.0), max(self.high, 0.0)

    @abstractmethod
    def _take(self, values: Array, low: float, high: float) -> None:
        """Take in what the extremes of a piece of a batch (flat) do not tell."""

    @abstractmethod
    def _choose(self) -> Choice:
        """The range to quantise."""


class MinMax(Observer):
    """From the least to the greatest value."""

    def _take(self, values: Array, low: float, high: float) -> None:
        """The extremes say it all."""

    def _choose(self) -> Choice:
        return Choice(self.seen)


class MovingAverage(Observer):
    """The running mean of each sample's least and greatest value: one odd sample weighs 1/N.

    Every sample weighs the same, so neither the order nor the batch matters (TensorFlow's and
    PyTorch's exponential average forgets the first ones; ONNX Runtime averages as here, by batch).
    """

    def __init__(self) -> None:
        super().__init__()
        self._lows = self._highs = 0.0  # sums over the samples

    def update(self, values: Array) -> bool:
        fine = super().update(values)
        if fine:
            each = values.reshape(len(values), -1)
            self._lows += float(each.min(axis=1).sum(dtype=np.float64))
            self._highs += float(each.max(axis=1).sum(dtype=np.float64))
        return fine

    def _take(self, values: Array, low: float, high: float) -> None:
        """Pieces are not samples: `update` takes those in."""

    def _choose(self) -> Choice:
        low, high = min(self._lows / self.samples, 0.0), max(self._highs / self.samples, 0.0)
        return Choice((low, high) if low < high else self.seen)


class Percentile(Observer):
    """Clips the lowest and the highest 0.01 % of all values, with 99.99.

    Only tails decide. Some values of the first batch tell where they begin, with room (50 times
    what is clipped), and only values beyond are counted: that takes a fifth of the time. Should a
    tail turn out to begin further in, the range ends where counting began: wider than asked for,
    never narrower.
    """

    ROOM, GLANCE = 50, 1 << 15

    def __init__(self, percent: float = 99.99) -> None:
        super().__init__()
        self._tail = (100.0 - percent) / 100.0
        self._histogram = Histogram()
        self._count = 0
        self._inner: Range = (0.0, 0.0)

    def update(self, values: Array) -> bool:
        if self._count == 0:
            self._inner = self._glance(values)
        self._count += values.size
        return super().update(values)

    def _glance(self, values: Array) -> Range:
        some = values.reshape(-1)[:: max(1, values.size // self.GLANCE)]
        room = min(self.ROOM * self._tail, 0.5)
        first, last = np.quantile(some, [room, 1 - room], method="nearest")
        return float(first), float(last)

    def _take(self, values: Array, low: float, high: float) -> None:
        outside = values > self._inner[1]
        if low < self._inner[0]:
            outside |= values < self._inner[0]
        # An index of the few takes a fifth of the time of a mask.
        self._histogram.add(values[outside.nonzero()], low, high)

    def _choose(self) -> Choice:
        low, high = self._histogram.quantile_range(int(self._tail * self._count))
        low, high = min(low, self._inner[0]), max(high, self._inner[1])
        return Choice((max(low, self.low), min(high, self.high)))


class _Searching(Observer):
    """Observers that search for a range over a histogram of all values."""

    def __init__(self) -> None:
        super().__init__()
        self._histogram = Histogram()

    def _take(self, values: Array, low: float, high: float) -> None:
        self._histogram.add(values, low, high)


class Entropy(_Searching):
    """The range that keeps the most information (`clipping.divergence`; NVIDIA's method)."""

    def _choose(self) -> Choice:
        return Choice(*clipping.least_divergence(self._histogram, self.seen))


class MeanSquaredError(_Searching):
    """The range of the least expected squared error."""

    def _choose(self) -> Choice:
        return Choice(*clipping.least_squares(self._histogram, self.seen))


class Auto(_Searching):
    """The simplest of the other observers whose squared error is within 1 % of the least.

    Simplest first: min-max, percentile (99.99), entropy, mean squared error. One choice serves both
    kinds of scheme: it has the least sum of both errors, each relative to the best there.
    """

    TOLERANCE = 1.01

    def _choose(self) -> Choice:
        peak = max(-self.seen[0], self.seen[1])
        tail = int(1e-4 * self._histogram.counts.sum())
        low, high = self._histogram.quantile_range(tail)
        low, high = max(min(low, 0.0), self.seen[0]), min(max(high, 0.0), self.seen[1])
        found: dict[str, tuple[Range, float]] = {
            "minmax": (self.seen, peak),
            "percentile": ((low, high), max(-low, high)),
            "entropy": clipping.least_divergence(self._histogram, self.seen),
            "mse": clipping.least_squares(self._histogram, self.seen),
        }
        errors = {name: self._errors(*each) for name, each in found.items()}
        least = [max(min(each), _TINY) for each in zip(*errors.values(), strict=True)]
        scores = {
            n: sum(e / b for e, b in zip(each, least, strict=True)) for n, each in errors.items()
        }
        enough = min(scores.values()) * self.TOLERANCE
        name = next(name for name, score in scores.items() if score <= enough)
        return Choice(*found[name], name)

    def _errors(self, clip: Range, limit: float) -> tuple[float, float]:
        """Squared errors of an affine and of a symmetric range."""
        values, counts = self._histogram.occupied()
        return (
            clipping.squared_error(values, counts, clip, clipping.AFFINE_STEPS),
            clipping.squared_error(values, counts, (-limit, limit), clipping.SYMMETRIC_STEPS),
        )


_TINY = float(np.finfo(np.float64).tiny)

OBSERVERS: Mapping[str, type[Observer]] = {
    "minmax": MinMax,
    "moving-average": MovingAverage,
    "percentile": Percentile,
    "entropy": Entropy,
    "mse": MeanSquaredError,
    "auto": Auto,
}


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
