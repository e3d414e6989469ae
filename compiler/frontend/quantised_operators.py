"""Operators on quantised tensors, as float ones between Q/DQ pairs.

    QLinearConv(x, …, y_scale, y_zero)  →  QuantizeLinear(Conv(DequantizeLinear(x), …), …)

Both say the same (ONNX Runtime's documentation, "Quantize ONNX models": operator-oriented and
tensor-oriented), but for a sum that lies between two steps: float32 may round it the other way.
"""

from __future__ import annotations

import numpy as np

from rtc.calibration.quantise import QDQ_OPSET
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.parts import Form, Parts, Unwritten

_MS = "com.microsoft"
_CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_WINDOW = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")


def _dequantised(parts: Parts, first: int, axis: int | None = None) -> str:
    """The float tensor that an integer one (input `first`), its scale and its zero point stand for.

    `axis`: which one several scales go along.
    """
    return _pair(parts, "DequantizeLinear", parts.given(first), first + 1, axis=axis)


def _quantised(parts: Parts, tensor: str, first: int, output: int | None = 0) -> str:
    """The integers of a float tensor, by the scale and zero point at input `first` and after."""
    return _pair(parts, "QuantizeLinear", tensor, first, output=output)


def _pair(parts: Parts, op: str, tensor: str, first: int, **places: int | None) -> str:
    axis, output = places.get("axis"), places.get("output")
    scale, zero = parts.given(first), parts.given(first + 1)
    if scale not in parts.stored:
        if parts.rank(scale):
            raise Unwritten(f"its scale {scale} is computed")
        inputs, several = [scale, *([zero] if zero else [])], False
    else:
        scales = parts.value(scale)
        zeros = parts.value(zero) if zero else None
        if scales.size > 1 and scales.size != max(scales.shape):
            raise Unwritten(f"its scales {scale} go along more than one axis")
        several = scales.size > 1 or (zeros is not None and zeros.size > 1)
        size = max(scales.size, 1 if zeros is None else zeros.size)
        inputs = [_spread(parts, scale, scales, size, several)]
        if zeros is not None:
            inputs.append(_spread(parts, zero, zeros, size, several))
    if several and axis is None:
        raise Unwritten(f"its data has several scales {scale}")
    return parts.add(op, tensor, *inputs, output=output, axis=axis if several else None)


def _spread(parts: Parts, name: str, value: Array, size: int, several: bool) -> str:
    """A constant as a scalar, or as one number for each channel."""
    wanted = (size,) if several else ()
    if value.shape == wanted:
        return name
    spread = np.broadcast_to(value.reshape(-1), wanted) if several else value.reshape(())
    return parts.constant(f"{name}/spread", np.ascontiguousarray(spread))


def _qlinear_conv(parts: Parts) -> None:
    last = parts.option("channels_last", 0)
    x, w = _dequantised(parts, 0), _dequantised(parts, 3, axis=0)
    rank = parts.rank(parts.given(3))
    if last:
        x = parts.add("Transpose", x, perm=[0, rank - 1, *range(1, rank - 1)])
    bias = parts.given(8)
    inputs = [x, w, *([_dequantised_bias(parts, bias)] if bias else [])]
    made = parts.add("Conv", *inputs, layer=True, **parts.options(*_CONV))
    if last:
        made = parts.add("Transpose", made, perm=[0, *range(2, rank), 1])
    _quantised(parts, made, 6)


def _dequantised_bias(parts: Parts, bias: str, factor: float = 1.0) -> str:
    """An int32 bias in float: it is in steps of the data's scale times the weights'."""
    scale = parts.value(parts.given(1)).reshape(-1) * parts.value(parts.given(4)).reshape(-1)
    scale = (scale * factor).astype(np.float32)
    if scale.size == 1:
        return parts.add("DequantizeLinear", bias, parts.constant("bias_scale", scale.reshape(())))
    return parts.add(
        "DequantizeLinear", bias, parts.constant("bias_scale", scale), axis=parts.rank(bias) - 1
    )


def _qlinear_matmul(parts: Parts) -> None:
    rows, columns = parts.rank(parts.given(0)) - 2, parts.rank(parts.given(3)) - 1
    a, b = _dequantised(parts, 0, axis=rows), _dequantised(parts, 3, axis=columns)
    _quantised(parts, parts.add("MatMul", a, b, layer=True), 6)


def _qgemm(parts: Parts) -> None:
    options = parts.options("alpha", "transA", "transB")
    a = _dequantised(parts, 0)
    b = _dequantised(parts, 3, axis=0 if parts.option("transB", 0) else 1)
    bias = parts.given(6)
    added = [_dequantised_bias(parts, bias, parts.option("alpha", 1.0))] if bias else []
    if not parts.given(7):
        parts.add("Gemm", a, b, *added, output=0, layer=True, **options)
        return
    _quantised(parts, parts.add("Gemm", a, b, *added, layer=True, **options), 7)


def _qlinear_binary(op: str) -> Form:
    def write(parts: Parts) -> None:
        made = parts.add(op, _dequantised(parts, 0), _dequantised(parts, 3), layer=True)
        _quantised(parts, made, 6)

    return write


def _qlinear_unary(op: str, *options: str) -> Form:
    def write(parts: Parts) -> None:
        made = parts.add(op, _dequantised(parts, 0), layer=True, **parts.options(*options))
        _quantised(parts, made, 3)

    return write


def _qlinear_softmax(parts: Parts) -> None:
    axis, rank = parts.option("axis", -1), parts.rank(parts.given(0))
    if parts.option("opset", 13) < QDQ_OPSET and axis not in (-1, rank - 1):
        raise Unwritten("its axis is the first of several that it flattens")
    _quantised(parts, parts.add("Softmax", _dequantised(parts, 0), layer=True, axis=axis), 3)


def _qlinear_pool(op: str, *options: str) -> Form:
    def write(parts: Parts) -> None:
        x, rank = _dequantised(parts, 0), parts.rank(parts.given(0))
        last = parts.option("channels_last", 0)
        if last:
            x = parts.add("Transpose", x, perm=[0, rank - 1, *range(1, rank - 1)])
        made = parts.add(op, x, layer=True, **parts.options(*options))
        if last:
            made = parts.add("Transpose", made, perm=[0, *range(2, rank), 1])
        _quantised(parts, made, 3)

    return write


def _qlinear_concat(parts: Parts) -> None:
    firsts = range(2, len(parts.node.input), 3)
    made = [_dequantised(parts, first) for first in firsts]
    joined = parts.add("Concat", *made, layer=True, axis=parts.option("axis", 0))
    _quantised(parts, joined, 0)


def _qlinear_where(parts: Parts) -> None:
    made = (_dequantised(parts, 1), _dequantised(parts, 4))
    _quantised(parts, parts.add("Where", parts.given(0), *made, layer=True), 7)


QUANTISED: dict[str, Form] = {
    "QLinearConv": _qlinear_conv,
    "QLinearMatMul": _qlinear_matmul,
    f"{_MS}.QGemm": _qgemm,
    f"{_MS}.QLinearAdd": _qlinear_binary("Add"),
    f"{_MS}.QLinearAveragePool": _qlinear_pool("AveragePool", *_WINDOW),
    f"{_MS}.QLinearConcat": _qlinear_concat,
    f"{_MS}.QLinearConv": _qlinear_conv,
    f"{_MS}.QLinearGlobalAveragePool": _qlinear_pool("GlobalAveragePool"),
    f"{_MS}.QLinearLeakyRelu": _qlinear_unary("LeakyRelu", "alpha"),
    f"{_MS}.QLinearMul": _qlinear_binary("Mul"),
    f"{_MS}.QLinearSigmoid": _qlinear_unary("Sigmoid"),
    f"{_MS}.QLinearSoftmax": _qlinear_softmax,
    f"{_MS}.QLinearWhere": _qlinear_where,
}
"""By operator."""
