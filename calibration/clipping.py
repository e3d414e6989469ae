"""Where to clip a tensor, by the error that its histogram would have in INT8.

A range (low, high) with n steps has the scale s = (high - low) / n and restores a value x as

    x' = s · clip(round(x / s), z, z + n)        z = round(low / s), so that zero stays zero

Two measures of the error: squared, E[(x - x')²], and the Kullback-Leibler divergence of Migacz
("8-bit inference with TensorRT", GTC 2017). Ranges to choose from are the range seen, shrunk.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from rtc.calibration.histogram import Histogram
from rtc.compiler.core.arrays import Float64Array, Int64Array
from rtc.compiler.core.precision import Range

ClippingLoss = Callable[[Float64Array, Int64Array, Range, int], float]

AFFINE_STEPS, SYMMETRIC_STEPS = 255, 254  # uint8 from 0 to 255; int8 from -127 to 127
_EVENLY = tuple(k / 128 for k in range(128, 7, -1))  # Migacz: from 128 bins of 2,048 to all
_FINELY = tuple(2 ** (-k / 8) for k in range(49))  # down to 1/64 of the range seen
_COARSELY = _FINELY[:41:2]  # for both ends independently


def squared_error(
    values: Float64Array,
    counts: Int64Array,
    clip: Range,
    steps: int,
    wanted: Float64Array | None = None,
) -> float:
    """Mean squared error of the values, each as often as it was counted.

    `wanted`: what each value should come out as, where that is not the value itself.
    """
    scale = (clip[1] - clip[0]) / steps
    first = np.rint(clip[0] / scale)
    error = np.clip(np.rint(values / scale), first, first + steps) * scale
    error -= values if wanted is None else wanted
    return float(np.dot(error * error, counts) / counts.sum())


def divergence(values: Float64Array, counts: Int64Array, clip: Range, steps: int) -> float:
    """KL(P || Q): P the clipped histogram, outliers in its last bins, Q the same in INT8.

    Q spreads what falls on each level evenly over the bins that were not empty, and knows nothing
    of the outliers. A bin that Q leaves empty counts as one value, which keeps the result finite.
    """
    inside = (values >= clip[0]) & (values <= clip[1])
    if not inside.any():
        return float("inf")
    kept = counts[inside].astype(np.float64)
    p = kept.copy()
    p[0] += counts[values < clip[0]].sum()
    p[-1] += counts[values > clip[1]].sum()
    scale = (clip[1] - clip[0]) / steps
    levels = np.rint(values[inside] / scale).astype(np.int64)
    levels -= levels[0]
    q = (np.bincount(levels, kept) / np.maximum(np.bincount(levels), 1))[levels]
    p, q = p / p.sum(), np.maximum(q, 1.0) / np.maximum(q, 1.0).sum()
    return float(np.dot(p, np.log(p / q)))


def least_squares(histogram: Histogram, seen: Range) -> tuple[Range, float]:
    """The affine range and the symmetric limit of the least squared error."""
    return least_squares_to(None, *histogram.occupied(), seen)


def least_squares_to(
    wanted: Float64Array | None, values: Float64Array, counts: Int64Array, seen: Range
) -> tuple[Range, float]:
    """The same, held against what each value should come out as (None: itself)."""
    measure = functools.partial(squared_error, wanted=wanted)
    affine = _best(measure, values, counts, _affine(seen, independently=True), AFFINE_STEPS)
    return affine, _limit(measure, values, counts, _symmetric(seen, _FINELY))


def least_divergence(histogram: Histogram, seen: Range) -> tuple[Range, float]:
    """The affine range and the symmetric limit of the least divergence.

    Zeros are exact in every range, and a ReLU's would outweigh all that is not: the bin that holds
    them counts like its neighbour (as in NVIDIA's pytorch-quantization).
    """
    values, counts = histogram.occupied()
    zero = int(np.abs(values).argmin())
    if len(values) > 1 and abs(values[zero]) <= histogram.width:
        counts = counts.copy()
        counts[zero] = counts[zero + 1 if zero + 1 < len(counts) else zero - 1]
    affine = _best(divergence, values, counts, _affine(seen, independently=False), AFFINE_STEPS)
    return affine, _limit(divergence, values, counts, _symmetric(seen, _EVENLY))


def _best(
    measure: ClippingLoss,
    values: Float64Array,
    counts: Int64Array,
    clips: Iterable[Range],
    steps: int,
) -> Range:
    """The range of the least error; the first (widest) of several."""
    return min(clips, key=lambda clip: measure(values, counts, clip, steps))


def _limit(
    measure: ClippingLoss, values: Float64Array, counts: Int64Array, clips: Iterable[Range]
) -> float:
    return _best(measure, values, counts, clips, SYMMETRIC_STEPS)[1]


def _symmetric(seen: Range, fractions: Iterable[float]) -> Iterator[Range]:
    peak = max(-seen[0], seen[1])
    return ((-peak * fraction, peak * fraction) for fraction in fractions)


def _affine(seen: Range, *, independently: bool) -> Iterator[Range]:
    """`seen` (which holds zero) shrunk: both ends alike, or each on its own."""
    low, high = seen
    if low < 0.0 < high and independently:
        return ((low * a, high * b) for a, b in itertools.product(_COARSELY, _COARSELY))
    fractions = _FINELY if independently else _EVENLY
    return ((low * fraction, high * fraction) for fraction in fractions)
