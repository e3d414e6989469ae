"""Observers: the range of a tensor, from values that stream past once. Memory is fixed.

A kind is a name, which may carry a number ("percentile:99.9"), or a class, "module:Class". Another
kind is another class made from `Observer`: a package names its own by an entry point in the group
`rtc.observers`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from rtc.calibration import clipping
from rtc.calibration.histogram import Histogram, chunks
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.doors import Door
from rtc.compiler.core.errors import RecipeError, RtcError, first_line
from rtc.compiler.core.naming import REFERENCE
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
            with _told(self):
                self.take(chunk, low, high)
        self.samples += len(values)
        return True

    def result(self, kind: str) -> TensorRange:
        """The range; it holds zero and is not empty, so that its scale is positive."""
        if self.seen == (0.0, 0.0):
            return TensorRange(0.0, 1.0, 0.0, 0.0, kind, self.samples)  # any scale represents zero
        with _told(self):
            (low, high), limit, by = self.choose()
        if not -math.inf < low <= high < math.inf:
            raise RecipeError(
                f"the observer {kind} chose no range",
                seen=f"{low} to {high}",
                expected="two finite numbers, the lower one first",
                id="no-range",
            )
        low, high = min(low, 0.0), max(high, 0.0)
        if low == high:
            (low, high), limit = self.seen, None
        kind = f"{kind}: {by}" if by else kind
        return TensorRange(low, high, self.low, self.high, kind, self.samples, limit)

    @property
    def seen(self) -> Range:
        """The extremes, widened so that they hold zero."""
        return min(self.low, 0.0), max(self.high, 0.0)

    @classmethod
    def with_number(cls, number: float) -> Observer:  # noqa: ARG003 - others take one
        """One of a kind that carries a number: "percentile:99.9".

        Raises:
            ValueError: it takes none, or another; what is expected.
        """
        raise ValueError("the observer's name alone: it takes no number")

    @abstractmethod
    def take(self, values: Array, low: float, high: float) -> None:
        """Take in what the extremes of a piece of a batch do not tell.

        Args:
            values: the piece, flat and finite; it is gone after this call.
            low: its least value.
            high: its greatest.
        """

    @abstractmethod
    def choose(self) -> Choice:
        """The range to quantise, two finite numbers; asked for when every batch was taken in."""


@contextmanager
def _told(observer: Observer) -> Iterator[None]:
    """What goes wrong in another package's observer is told as a fault of its code."""
    try:
        yield
    except RtcError:
        raise
    except Exception as cause:
        kind = type(observer)
        if kind.__module__ == __name__:
            raise
        raise RecipeError(
            "this observer failed",
            where=f"{kind.__module__}:{kind.__name__}",
            seen=f"{type(cause).__name__}: {first_line(cause)}",
            fix="mend it",
            id="user-code",
        ) from cause


class MinMax(Observer):
    """From the least to the greatest value."""

    def take(self, values: Array, low: float, high: float) -> None:
        """The extremes say it all."""

    def choose(self) -> Choice:
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

    def take(self, values: Array, low: float, high: float) -> None:
        """Pieces are not samples: `update` takes those in."""

    def choose(self) -> Choice:
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

    @classmethod
    def with_number(cls, number: float) -> Percentile:
        if not 50.0 < number <= 100.0:
            raise ValueError("percentile:P with 50 < P <= 100")
        return cls(number)

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

    def take(self, values: Array, low: float, high: float) -> None:
        outside = values > self._inner[1]
        if low < self._inner[0]:
            outside |= values < self._inner[0]
        # An index of the few takes a fifth of the time of a mask.
        self._histogram.add(values[outside.nonzero()], low, high)

    def choose(self) -> Choice:
        low, high = self._histogram.quantile_range(int(self._tail * self._count))
        low, high = min(low, self._inner[0]), max(high, self._inner[1])
        return Choice((max(low, self.low), min(high, self.high)))


class _Searching(Observer):
    """Observers that search for a range over a histogram of all values."""

    def __init__(self) -> None:
        super().__init__()
        self._histogram = Histogram()

    def take(self, values: Array, low: float, high: float) -> None:
        self._histogram.add(values, low, high)


class Entropy(_Searching):
    """The range that keeps the most information (`clipping.divergence`; NVIDIA's method)."""

    def choose(self) -> Choice:
        return Choice(*clipping.least_divergence(self._histogram, self.seen))


class MeanSquaredError(_Searching):
    """The range of the least expected squared error."""

    def choose(self) -> Choice:
        return Choice(*clipping.least_squares(self._histogram, self.seen))


class Auto(_Searching):
    """The simplest of the other observers whose squared error is within 1 % of the least.

    Simplest first: min-max, percentile (99.99), entropy, mean squared error. One choice serves both
    kinds of scheme: it has the least sum of both errors, each relative to the best there.
    """

    TOLERANCE = 1.01

    def choose(self) -> Choice:
        peak = max(-self.seen[0], self.seen[1])
        tail = int(1e-4 * self._histogram.counts.sum())
        low, high = self._histogram.quantile_range(tail)
        low, high = max(min(low, 0.0), self.seen[0]), min(max(high, 0.0), self.seen[1])
        errors_by_kind: dict[str, tuple[Range, float]] = {
            "minmax": (self.seen, peak),
            "percentile": ((low, high), max(-low, high)),
            "entropy": clipping.least_divergence(self._histogram, self.seen),
            "mse": clipping.least_squares(self._histogram, self.seen),
        }
        errors = {name: self._errors(*each) for name, each in errors_by_kind.items()}
        least = [max(min(each), _TINY) for each in zip(*errors.values(), strict=True)]
        scores = {
            n: sum(e / b for e, b in zip(error, least, strict=True)) for n, error in errors.items()
        }
        enough = min(scores.values()) * self.TOLERANCE
        name = next(name for name, score in scores.items() if score <= enough)
        return Choice(*errors_by_kind[name], name)

    def _errors(self, clip: Range, limit: float) -> tuple[float, float]:
        """Squared errors of an affine and of a symmetric range."""
        values, counts = self._histogram.occupied()
        return (
            clipping.squared_error(values, counts, clip, clipping.AFFINE_STEPS),
            clipping.squared_error(values, counts, (-limit, limit), clipping.SYMMETRIC_STEPS),
        )


_TINY = float(np.finfo(np.float64).tiny)

OBSERVERS = Door(
    "rtc.observers",
    # mypy asks for a class that can be made; what others are made from is abstract.
    Observer,  # type: ignore[type-abstract]
    "observer",
    {
        "minmax": "rtc.calibration.observers:MinMax",
        "moving-average": "rtc.calibration.observers:MovingAverage",
        "percentile": "rtc.calibration.observers:Percentile",
        "entropy": "rtc.calibration.observers:Entropy",
        "mse": "rtc.calibration.observers:MeanSquaredError",
        "auto": "rtc.calibration.observers:Auto",
    },
)


def is_reference(kind: str) -> bool:
    """Whether a kind is a class, "module:Class", and not a name with a number."""
    return bool(REFERENCE.match(kind)) and kind.partition(":")[0] not in OBSERVERS.known()


def make_observer(kind: str, where: str = "precision.observer") -> Observer:
    """A new observer of a kind: "minmax", "percentile:99.9", "module:Class".

    Raises:
        RecipeError: no such kind, a number that it does not take, or a class that is no observer.
    """
    name, _, number = (kind, "", "") if is_reference(kind) else kind.partition(":")
    observer_class = OBSERVERS.find(name, where)
    try:
        return observer_class.with_number(float(number)) if number else observer_class()
    except ValueError as cause:
        raise RecipeError(
            "not an observer's number",
            where=where,
            seen=repr(kind),
            expected=first_line(cause),
            id="unknown-observer",
        ) from cause
    except TypeError as cause:
        raise RecipeError(
            f"the observer {OBSERVERS.reference(name)} cannot be made",
            where=where,
            seen=first_line(cause),
            expected="a class that takes no arguments",
            id="not-an-observer",
        ) from cause
