"""Weights whose products are added together in 16 bits: INT8 on x86 CPUs without VNNI.

There `vpmaddubsw` multiplies uint8 activations by int8 weights and adds the products of neighbours
in int16, which saturates: 255 · (w₀ + w₁) has to stay within ±32,767, so that two neighbours of one
sign may add up to 128 at most. (Int8 activations are shifted into uint8 first: they are no better.)

Who is whose neighbour was seen with OpenVINO 2026.4.1 (oneDNN) and ONNX Runtime 1.32 (MLAS): input
channels 2k and 2k + 1 at one place of a kernel. Where their number is odd, the last one is alone in
OpenVINO; in ONNX Runtime its neighbour is the first channel at the next place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rtc.compiler.core.arrays import Array, Int64Array

LIMIT = 128
"""The largest sum of two neighbouring weights of one sign."""


def partners(shape: Sequence[int]) -> tuple[Int64Array, ...]:
    """The neighbour of each weight of one output channel, for every way that runtimes pair them.

    Args:
        shape: (input channels, *kernel) of the channel's weights.

    Returns:
        Arrays (n,) over the weights in C order: the neighbour's index, or n where there is none.
    """
    inputs, places = shape[0], math.prod(shape[1:])
    order = np.arange(inputs * places).reshape(inputs, places).T  # as they are multiplied
    orders = [_pairs(order)]
    if inputs % 2:
        orders.append(_pairs(order.reshape(1, -1)))
    return tuple(orders)


def _pairs(order: Int64Array) -> Int64Array:
    """Neighbours within each row of `order`; the last of a row of odd length has none."""
    count = order.size
    partner = np.full(count + 1, count)
    even = order.shape[1] // 2 * 2
    first, second = order[:, 0:even:2], order[:, 1:even:2]
    partner[first], partner[second] = second, first
    return partner[:count]


def largest(weights: Array, pairs: Sequence[Int64Array]) -> Array:
    """For each row of weights (out, n), the largest weight or sum of neighbours of one sign (out,).

    Absolute values; without `pairs`, of single weights alone.
    """
    per_row: Array = np.abs(weights).max(axis=1)
    for signed in (weights, -weights) if pairs else ():
        positive = np.pad(np.maximum(signed, 0), [(0, 0), (0, 1)])
        for partner in pairs:
            per_row = np.maximum(per_row, (positive[:, :-1] + positive[:, partner]).max(axis=1))
    return per_row
