"""Steps of random networks that compute in integers, and the same without their rounding.

What is rounded differs by a whole step where a float differs in its last digit. In `EXACT`, onnx's
operators give the number that lies between two integers instead: what a pass moves by a digit
moves it by a digit, and cutting to a type's limits stays.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto
from onnx.reference.op_run import OpRun

if TYPE_CHECKING:
    from random_graphs import _Tensor, _Walk


def quantise_and_back(walk: _Walk, x: _Tensor) -> _Tensor:
    """A Q/DQ pair, with one scale or (from opset 13 on) one for each channel."""
    axis = int(walk.random.integers(len(x.shape))) if walk.opset >= 13 and walk.chance() else None
    many = () if axis is None else (x.shape[axis],)
    kind = walk.pick([np.uint8, np.int8])
    parameters = [
        walk.constant(walk.random.uniform(0.02, 0.1, many)),
        walk.constant(walk.random.integers(*_around_zero(kind), many), kind),
    ]
    options = {} if axis is None else {"axis": axis + 1}
    integers = walk.node("QuantizeLinear", x.name, *parameters, **options)
    return replace(x, name=walk.node("DequantizeLinear", integers, *parameters, **options))


def matmul_integer(walk: _Walk, x: _Tensor) -> _Tensor:
    integers, scale, zero = _quantised(walk, x)
    out = walk.size()
    weight = walk.constant(walk.random.integers(-99, 99, (x.shape[-1], out)), np.int8)
    sums = walk.node("MatMulInteger", integers, weight, zero)
    return replace(x, name=_float(walk, sums, scale), shape=(*x.shape[:-1], out))


def conv_integer(walk: _Walk, x: _Tensor) -> _Tensor | None:
    """A kernel of one tap; weights with a zero point of their own."""
    if len(x.shape) != 3:
        return None
    integers, scale, zero = _quantised(walk, x)
    out = walk.size()
    weight = walk.constant(walk.random.integers(28, 228, (out, x.shape[0], 1, 1)), np.uint8)
    sums = walk.node("ConvInteger", integers, weight, zero, walk.constant(128, np.uint8))
    return replace(x, name=_float(walk, sums, scale), shape=(out, *x.shape[1:]))


def qlinear_matmul(walk: _Walk, x: _Tensor) -> _Tensor:
    integers, scale, zero = _quantised(walk, x)
    out, inner = walk.size(), x.shape[-1]
    weight = walk.constant(walk.random.integers(28, 228, (inner, out)), np.uint8)
    of_weight = walk.constant(0.01), walk.constant(128, np.uint8)
    result = walk.constant(0.03), walk.constant(int(walk.random.integers(90, 160)), np.uint8)
    made = walk.node("QLinearMatMul", integers, scale, zero, weight, *of_weight, *result)
    name = walk.node("DequantizeLinear", made, *result)
    return replace(x, name=name, shape=(*x.shape[:-1], out))


def _around_zero(kind: Any) -> tuple[int, int]:
    return (90, 160) if kind is np.uint8 else (-30, 30)


def _quantised(walk: _Walk, x: _Tensor) -> tuple[str, str, str]:
    """A tensor in uint8, its scale and its zero point."""
    scale = walk.constant(walk.random.uniform(0.02, 0.1))
    zero = walk.constant(int(walk.random.integers(90, 160)), np.uint8)
    return walk.node("QuantizeLinear", x.name, scale, zero), scale, zero


def _float(walk: _Walk, sums: str, scale: str) -> str:
    """Integer sums as floats again; the weights' scale is 0.01."""
    floats = walk.node("Cast", sums, to=TensorProto.FLOAT)
    return walk.node("Mul", floats, walk.node("Mul", scale, walk.constant(0.01)))


def _less(values: Any, zero: Any) -> Any:
    return values.astype(np.float64) - (0.0 if zero is None else zero.astype(np.float64))


def _cut(values: Any, kind: Any) -> Any:
    limits = np.iinfo(kind)
    return np.clip(values, limits.min, limits.max)


def _along(values: Any, rank: int, axis: int) -> Any:
    """Parameters of one axis, for a tensor of some rank."""
    return values.reshape([-1 if i == axis else 1 for i in range(rank)]) if values.ndim else values


class QuantizeLinear(OpRun):
    def _run(self, x, scale, zero, axis=1, **_):
        scale, shift = (_along(each, x.ndim, axis) for each in (scale, zero))
        return (_cut(x / scale + shift, zero.dtype),)


class DequantizeLinear(OpRun):
    def _run(self, x, scale, zero, axis=1, **_):
        scale, shift = (_along(each, x.ndim, axis) for each in (scale, zero))
        return (_less(x, shift) * scale,)


class MatMulInteger(OpRun):
    def _run(self, a, b, a_zero=None, b_zero=None):
        return (_less(a, a_zero) @ _less(b, b_zero),)


class ConvInteger(OpRun):
    def _run(self, x, w, x_zero, w_zero, **_):
        taps = _less(w, w_zero)[:, :, 0, 0]
        return (np.einsum("nc...,oc->no...", _less(x, x_zero), taps),)


class QLinearMatMul(OpRun):
    def _run(self, *inputs):
        a, a_scale, a_zero, b, b_scale, b_zero, scale, zero = inputs
        product = (_less(a, a_zero) * a_scale) @ (_less(b, b_zero) * b_scale)
        return (_cut(product / scale + zero, zero.dtype),)


EXACT = (QuantizeLinear, DequantizeLinear, MatMulInteger, ConvInteger, QLinearMatMul)
