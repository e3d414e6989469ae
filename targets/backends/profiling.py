"""What runtimes' own profilers have in common: how long to run, and what to make of the times.

Profilers count whole microseconds and cut the rest off; `HALF_US` makes up for it on average.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from rtc.compiler.core.target import BuiltLayer

WARMUP = 5  # runs that are not counted
MOST = 500  # runs counted: a profiler keeps a record of every kernel of each
HALF_US = 0.5


def repeat(step: Callable[[], object], seconds: float, most: int = MOST) -> int:
    """Call `step` for some time, at least once and at most `most` times; how often it was."""
    end = time.perf_counter() + seconds
    for count in range(1, most + 1):
        step()
        if time.perf_counter() >= end:
            return count
    return most


def midmean(times: npt.ArrayLike) -> float:
    """The mean of the middle half (Tukey 1977): as deaf to outliers as a median, and not whole."""
    ordered = np.sort(np.asarray(times, np.float64))
    quarter = len(ordered) // 4
    return float(ordered[quarter : len(ordered) - quarter].mean())


def by_layer(layers: Sequence[BuiltLayer], times: Mapping[str, float]) -> tuple[float | None, ...]:
    """The time of each layer, by name; None where there is none or another has its name."""
    names = Counter(layer.name for layer in layers)
    return tuple(times.get(layer.name) if names[layer.name] == 1 else None for layer in layers)
