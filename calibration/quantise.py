"""Affine INT8 quantisation: scales, zero points and integer weights, as ONNX defines them.

    q = saturate(round_half_even(x / scale) + zero_point)        x' = (q - zero_point) * scale

Weights are symmetric int8 within ±127, so that a zero weight stays zero and -w quantises as -q.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from rtc.compiler.core.arrays import Array, Float32Array, Float64Array, Int8Array, Int64Array
from rtc.compiler.core.errors import ModelError
from rtc.compiler.core.pairs import LIMIT, largest, partners
from rtc.compiler.core.passes import TensorRange

WeightScales = Literal["minmax", "mse"]
"""How the scales of weights are chosen."""

QDQ_OPSET = 13
"""The first whose Q/DQ have an axis, which scales per channel need."""

_TINY = float(np.finfo(np.float32).tiny)  # runtimes refuse a scale of zero; a denormal becomes one
_BIAS_LIMIT = 2.0**30  # half of what int32 holds


@dataclass(frozen=True, eq=False)
class Parameters:
    """`scale` (float32) and `zero_point` (uint8 or int8): scalars, or one value per channel."""

    scale: Float32Array
    zero_point: Array


def refuse_old_opset(opset: int) -> None:
    """Raise a ModelError if an opset is older than Q/DQ with an axis."""
    if opset < QDQ_OPSET:
        raise ModelError(
            "quantising per channel needs a newer opset",
            seen=f"opset {opset}",
            expected=f"{QDQ_OPSET} or newer",
            fix="export the model again, or convert it with onnx.version_converter",
            id="old-opset",
        )


def activation_parameters(seen: TensorRange, kind: str) -> Parameters:
    """Scale and zero point that cover a range, zero included (padding must stay exact).

    `kind`: "uint8" (affine), "int8" (symmetric, zero point 0), or "by-sign" (int8 where a tensor
    has negative values, uint8 elsewhere), as in `QuantScheme.activation`.
    """
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    if kind == "uint8" or (kind == "by-sign" and low == 0.0):
        scale = max((high - low) / 255, _TINY)
        zero_point = np.array(np.clip(np.rint(-low / scale), 0, 255), np.uint8)
    else:
        limit = max(-low, high) if seen.limit is None else seen.limit
        scale = max(limit, 127 * _TINY) / 127
        zero_point = np.array(0, np.int8)
    return Parameters(np.array(scale, np.float32), zero_point)


def as_unsigned(parameters: Parameters) -> Parameters:
    """The same values as uint8: zero point 128 where int8 has 0."""
    if parameters.zero_point.dtype == np.uint8:
        return parameters
    return Parameters(parameters.scale, np.full_like(parameters.zero_point, 128, np.uint8))


def with_one_scale(
    own: TensorRange, all_of_them: Iterable[TensorRange], kind: str
) -> tuple[TensorRange, str]:
    """A tensor's range, widened so that several tensors have one scale, and the type to share.

    `kind` as in `QuantScheme.activation`; "by-sign" is settled here, by all of them together.

    The widest range gives the scale; an affine zero point stays each tensor's own, so that one
    without negative values keeps 0, and with it the activation that runtimes fuse only then.
    """
    ranges = tuple(all_of_them)
    if len(ranges) == 1:
        return own, kind
    width = max(interval.high - interval.low for interval in ranges)
    limit = max(max(-r.low, r.high) if r.limit is None else r.limit for r in ranges)
    if kind == "by-sign":
        kind = "int8" if any(interval.low < 0 for interval in ranges) else "uint8"
    return replace(own, high=own.low + width, limit=limit), kind


def weight_parameters(
    weight: Array,
    axis: int,
    *,
    per_channel: bool = True,
    at_least: Float32Array | float = 0.0,
    how: WeightScales = "minmax",
    paired: bool = False,
) -> Parameters:
    """Symmetric int8 scales of a weight tensor.

    A channel of zeros gets the largest scale of the others: a scale of zero is an error in every
    runtime, and a tiny one overflows the int32 bias.

    Args:
        weight: weights, input channels before the kernel's axes.
        axis: that of the output channels.
        per_channel: a scale for each of them, or one for all.
        at_least: bounds the scales from below.
        how: "minmax" clips nothing; "mse" clips each channel where its squared error is least.
        paired: keep sums of neighbours within what 16 bits hold (rtc.compiler.core.pairs).
    """
    channels = np.moveaxis(weight, axis, 0).astype(np.float64)
    rows = channels.reshape(len(channels), -1)
    pairs = partners(channels.shape[1:]) if paired else ()
    peak = largest(rows, pairs)
    if not per_channel:
        peak = peak.max(keepdims=True)
    if how == "mse":
        peak = _least_squares_peak(rows, peak, pairs)
    scale = np.asarray(np.maximum(peak / 127, at_least), np.float32)
    dead = scale < _TINY
    alive = scale[~dead]
    scale = np.where(dead, alive.max() if alive.size else np.float32(1.0), scale)
    scale = np.asarray(scale if per_channel else scale.max(), np.float32)
    return Parameters(scale, np.zeros(scale.shape, np.int8))


def _least_squares_peak(
    rows: Float64Array, peak: Float64Array, pairs: Sequence[Int64Array]
) -> Float64Array:
    """The peak shrunk, by 70 % at most, to where the squared error is least.

    `rows` are output channels; `peak` has one value for each, or one for all. Weights that clipping
    leaves too large for their neighbours are no choice.
    """
    best, least = peak, np.full(peak.shape, np.inf)
    for fraction in np.linspace(1.0, 0.3, 36):
        scale = np.maximum(peak * fraction / 127, _TINY)[:, None]
        integers = np.clip(np.rint(rows / scale), -127, 127)
        error = np.square(integers * scale - rows).sum(axis=1)
        error = np.where(largest(integers, pairs) > LIMIT, np.inf, error)
        if len(peak) == 1:
            error = error.sum(keepdims=True)
        best, least = np.where(error < least, peak * fraction, best), np.minimum(error, least)
    return best


def least_weight_scale(bias: Array | None, input_scale: Array) -> Float32Array | float:
    """Weight scales below this would overflow a bias stored as int32 with scale input × weight."""
    if bias is None:
        return 0.0
    return np.asarray(np.abs(bias) / (float(input_scale) * _BIAS_LIMIT), np.float32)


def quantise_weight(weight: Array, parameters: Parameters, axis: int) -> Int8Array:
    """The int8 values; the shape stays. `axis`: that of the output channels."""
    scale = _along(parameters.scale, axis, weight.ndim)
    return np.clip(np.rint(weight / scale), -127, 127).astype(np.int8)


def dequantise_weight(values: Int8Array, parameters: Parameters, axis: int) -> Float32Array:
    """The float32 values that int8 weights stand for."""
    scale = _along(parameters.scale, axis, values.ndim)
    return (values.astype(np.float32) * scale).astype(np.float32)


def _along(scale: Float32Array, axis: int, rank: int) -> Float32Array:
    if scale.ndim == 0:
        return scale
    shape = [1] * rank
    shape[axis] = -1
    return scale.reshape(shape)
