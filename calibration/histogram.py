"""A histogram of values that stream past once, in memory that is fixed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rtc.compiler.core.arrays import Array, Float64Array, Int64Array

# Values at a time (1 MiB): what is computed of them stays in the processor's last cache. Smaller
# pieces fit the nearer ones, but leave threads waiting for each other's interpreter lock: 32,768
# values take two threads as long as one.
_CHUNK = 1 << 18
_LANES = 4


class Histogram:
    """Counts in bins of one width, which doubles when a value falls outside.

    Doubling merges pairs of bins, so what was counted stays counted, and of the bins (8,192) at
    least 2,048 lie over the range seen.
    """

    BINS = 8192

    def __init__(self) -> None:
        self.counts: Int64Array = np.zeros(self.BINS, np.int64)
        self.start = self.width = 0.0  # the left edge, and the width of a bin

    def add(self, values: Array, low: float, high: float) -> None:
        """Count finite values (any shape), whose least and greatest are `low` and `high`."""
        if not values.size:
            return
        self._stretch(low, high)
        for chunk in chunks(values):
            self.counts += self._counted(chunk)

    def occupied(self) -> tuple[Float64Array, Int64Array]:
        """The centres of the bins that are not empty, and their counts."""
        places = np.flatnonzero(self.counts)
        centres: Float64Array = self.start + (places + np.float64(0.5)) * self.width
        return centres, self.counts[places]

    def quantile_range(self, tail: int) -> tuple[float, float]:
        """The range that leaves at most `tail` values below it and at most `tail` above it."""
        first = int(np.searchsorted(np.cumsum(self.counts), tail, side="right"))
        after = self.BINS - int(np.searchsorted(np.cumsum(self.counts[::-1]), tail, side="right"))
        return self.start + first * self.width, self.start + after * self.width

    def _stretch(self, low: float, high: float) -> None:
        if self.width == 0.0:
            least = max(1e-6 * max(abs(low), abs(high)), float(np.finfo(np.float32).tiny))
            self.start, self.width = low, max(high - low, least) / (self.BINS - 1)
        while low < self.start:
            self.start -= self.width * self.BINS
            self._merge(self.BINS // 2)
        while high >= self.start + self.width * self.BINS:
            self._merge(0)

    def _merge(self, at: int) -> None:
        """Double the bins' width; what was counted goes to one half, which starts at `at`."""
        half = self.BINS // 2
        merged = self.counts.reshape(half, 2).sum(axis=1)
        self.counts = np.zeros(self.BINS, np.int64)
        self.counts[at : at + half] = merged
        self.width *= 2

    def _counted(self, chunk: Array) -> Int64Array:
        """The counts of some values.

        Neighbours go to different copies of the bins: a ReLU's zeros would all be added to one
        place, each waiting for the one before (three times slower on some processors).
        """
        scaled = chunk - np.float64(self.start)
        scaled *= 1.0 / self.width
        np.clip(scaled, 0, self.BINS - 1, out=scaled)
        # In place: fresh memory, page by page, would cost three times what is computed here.
        places = scaled.view(np.int64)
        np.copyto(places, scaled, casting="unsafe")
        places += _COPIES[: len(places)]
        counts = np.bincount(places, minlength=_LANES * self.BINS)
        total: Int64Array = counts.reshape(_LANES, self.BINS).sum(axis=0)
        return total


_COPIES = np.tile(np.arange(_LANES) * Histogram.BINS, _CHUNK // _LANES)


def chunks(values: Array) -> Iterator[Array]:
    """All values of an array as flat pieces that fit the processor's cache."""
    flat = values.reshape(-1)
    for at in range(0, len(flat), _CHUNK):
        yield flat[at : at + _CHUNK]
