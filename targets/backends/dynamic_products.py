"""Products that quantise what they read while the model runs, in float, for a runtime without them.

    DynamicQuantizeLinear(x)            → round(x / s) + z as whole floats; s, z of x's own range
    MatMulInteger(a, b, z_a, z_b)       → (a - z_a) · (b - z_b)
    ConvInteger(x, w, z_x, z_w)         → Conv(x - z_x, w - z_w)
    MatMulIntegerToFloat, DynamicQuantizeMatMul → likewise, times the scales, plus the bias

float32 holds such sums exactly up to 2²⁴: 518 products of the largest 8-bit numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rtc.compiler.core.arrays import Array
from rtc.compiler.core.parts import Form, Parts, Unwritten, write_parts

if TYPE_CHECKING:
    from onnx import ModelProto

_MS = "com.microsoft"
_FLOAT, _INT32 = 1, 6  # onnx.TensorProto's numbers
_OPSET = 13  # Clip with inputs
_CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_LISTED = 3  # operators that a note gives


def in_float(model: ModelProto) -> tuple[str, ...]:
    """Rewrite a model in place; a note on what INT8 is lost by."""
    if any(not opset.domain and opset.version < _OPSET for opset in model.opset_import):
        return ()
    if not any(_is_dynamic(node.op_type) for node in model.graph.node):
        return ()
    operators = write_parts(model, _FORMS).operators
    if not operators:
        return ()
    del model.graph.value_info[:]
    kinds = ", ".join(sorted(kind.rpartition(".")[2] for kind in operators)[:_LISTED])
    note = f"TensorRT-RTX quantises to fixed ranges alone: {kinds} round and multiply in float."
    return (f"{note} For INT8 let rtc quantise the float model.",)


def _is_dynamic(op: str) -> bool:
    return op in {kind.rpartition(".")[2] for kind in _FORMS}


def _dynamic_quantize(parts: Parts) -> None:
    _ranged(parts, parts.given(0), outputs=True)


def _ranged(parts: Parts, x: str, *, outputs: bool = False) -> tuple[str, str, str]:
    """Whole numbers in floats, their scale and zero point, as by ONNX's DynamicQuantizeLinear."""

    def to(index: int) -> int | None:
        return index if outputs and parts.wanted(index) else None

    zero, levels = parts.constant("zero", 0.0), parts.constant("levels", 255.0)
    one = parts.constant("one", 1.0)
    low = parts.add("Min", parts.add("ReduceMin", x, keepdims=0), zero)
    high = parts.add("Max", parts.add("ReduceMax", x, keepdims=0), zero)
    width = parts.add("Sub", high, low)
    is_flat = parts.add("Equal", width, zero)
    scale = parts.add("Where", is_flat, one, parts.add("Div", width, levels), output=to(1))
    below = parts.add("Round", parts.add("Div", parts.add("Sub", zero, low), scale))
    place = parts.add("Clip", below, zero, levels, output=to(2))
    shifted = parts.add("Add", parts.add("Round", parts.add("Div", x, scale)), place)
    return parts.add("Clip", shifted, zero, levels, output=to(0)), scale, place


def _zeroed(parts: Parts, tensor: str, zero: str, shape: Sequence[int]) -> str:
    """Integers less their zero points, in float; `shape` is that of several zero points."""
    if tensor in parts.stored and (not zero or zero in parts.stored):
        value = parts.value(tensor).astype(np.float32)
        if zero:
            value = value - _shaped(parts.value(zero).astype(np.float32), shape)
        return parts.constant(f"{tensor}/zeroed", value)
    wide = parts.add("Cast", tensor, to=_FLOAT)
    if not zero:
        return wide
    if zero in parts.stored:
        value = _shaped(parts.value(zero).astype(np.float32), shape)
        return parts.add("Sub", wide, parts.constant(f"{zero}/wide", value))
    if parts.rank(zero):
        raise Unwritten(f"its zero points {zero} are computed")
    return parts.add("Sub", wide, parts.add("Cast", zero, to=_FLOAT))


def _shaped(value: Array, shape: Sequence[int]) -> Array:
    return value.reshape(shape if value.size > 1 else ())


def _matmul_integer(parts: Parts) -> None:
    a = _zeroed(parts, parts.given(0), parts.given(2), (-1, 1))
    b = _zeroed(parts, parts.given(1), parts.given(3), (1, -1))
    parts.add("Cast", parts.add("MatMul", a, b, layer=True), output=0, to=_INT32)


def _conv_integer(parts: Parts) -> None:
    x = _zeroed(parts, parts.given(0), parts.given(2), ())
    w = _zeroed(
        parts, parts.given(1), parts.given(3), (-1, *[1] * (parts.rank(parts.given(1)) - 1))
    )
    made = parts.add("Conv", x, w, layer=True, **parts.options(*_CONV))
    parts.add("Cast", made, output=0, to=_INT32)


def _matmul_integer_to_float(parts: Parts) -> None:
    a = _zeroed(parts, parts.given(0), parts.given(4), (-1, 1))
    b = _zeroed(parts, parts.given(1), parts.given(5), (1, -1))
    scale = parts.add("Mul", parts.given(2), parts.given(3))
    _scaled(parts, parts.add("MatMul", a, b, layer=True), scale, parts.given(6))


def _dynamic_quantize_matmul(parts: Parts) -> None:
    whole, scale, place = _ranged(parts, parts.given(0))
    b = _zeroed(parts, parts.given(1), parts.given(3), (1, -1))
    made = parts.add("MatMul", parts.add("Sub", whole, place), b, layer=True)
    _scaled(parts, made, parts.add("Mul", scale, parts.given(2)), parts.given(4))


def _scaled(parts: Parts, product: str, scale: str, bias: str) -> None:
    scaled = parts.add("Mul", product, scale, output=None if bias else 0)
    if bias:
        parts.add("Add", scaled, bias, output=0)


_FORMS: dict[str, Form] = {
    "ConvInteger": _conv_integer,
    "DynamicQuantizeLinear": _dynamic_quantize,
    "MatMulInteger": _matmul_integer,
    f"{_MS}.DynamicQuantizeMatMul": _dynamic_quantize_matmul,
    f"{_MS}.MatMulIntegerToFloat": _matmul_integer_to_float,
}
