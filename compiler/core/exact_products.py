"""Products of 8-bit integers written out in floating point, where they are exact on every CPU.

ONNX Runtime's integer kernels add neighbouring products in 16 bits on x86 CPUs without VNNI, which
saturates, optimised or not (`rtc.compiler.core.pairs`). So each such operator becomes a call of a
function of the model, in doubles, whose integers are exact up to 2⁵³:

    MatMulInteger(a, b, za, zb)   →  (a - za) · (b - zb)
    ConvInteger(x, w, zx, zw)     →  Conv(x - zx, w - zw)
    QLinear…(…)                   →  saturate(round((sum + bias) · sₓ · s_w / s_y) + z_y)

A convolution computes in float32, exact up to 2²⁴. Where a sum may be larger, its operands are cut
into pieces of fewer bits, x = Σ bⁱ · xᵢ, one convolution for each pair of pieces.

Rounding is of the exact product, ties to even; ONNX Runtime multiplies in float32, so that it may
be one step off where that makes a tie. A quantised attention becomes a float one of what its
operands stand for; a quantised LSTM gets uint8 weights, whose kernels add in 32 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from rtc.compiler.core.function_calls import (
    Calls,
    handed_on,
    input_at,
    option_of,
    present_options,
    variant_of,
)
from rtc.compiler.core.operators import op_of
from rtc.compiler.core.protos import nested
from rtc.compiler.core.tensors import Dim, types_of

if TYPE_CHECKING:
    import onnx
from rtc.compiler.core.exact_attention import quantised_attention, quantised_lstm

_MS = "com.microsoft"
_LARGEST_OF_PIECES = {1: 255, 2: 16, 3: 7, 4: 4}
"""The largest absolute value of a piece, by the number of pieces of a number in -255 … 255."""
_LADDER = ((1, 1), (1, 2), (2, 2), (3, 3), (4, 4))
_UNKNOWN = 65536  # products of a sum where the weights' shape is not known
_CONV = {
    "auto_pad": "string",
    "dilations": "ints",
    "group": "int",
    "kernel_shape": "ints",
    "pads": "ints",
    "strides": "ints",
}
_MATRICES = """
    column = Constant <value = int64[2] {-1, 1}> ()
    a_wide = Cast <to = 11> (a)
    az_wide = Cast <to = 11> (az)
    az_rows = Reshape (az_wide, column)
    a_zeroed = Sub (a_wide, az_rows)
    a_shape = Shape (a)
    a_exact = Reshape (a_zeroed, a_shape)
    b_wide = Cast <to = 11> (b)
    bz_wide = Cast <to = 11> (bz)
    b_exact = Sub (b_wide, bz_wide)
    sum = MatMul (a_exact, b_exact)
"""
_SCALED_MATRIX = """
    shape = Shape (sum)
    as_wide = Cast <to = 11> (as)
    as_rows = Reshape (as_wide, column)
    bs_wide = Cast <to = 11> (bs)
    product_scale = Mul (as_rows, bs_wide)
"""
_INT32 = """
    y = Cast <to = 6> (sum)
"""
_FLOAT = """
    scaled = Mul (sum, product_scale)
    bias_wide = Cast <to = 11> (bias)
    biased = Add (scaled, bias_wide)
    shaped = Reshape (biased, shape)
    y = Cast <to = 1> (shaped)
"""
_REQUANTISED = """
    ys_wide = Cast <to = 11> (ys)
    ys_rows = Reshape (ys_wide, column)
    scale = Div (product_scale, ys_rows)
    scaled = Mul (biased, scale)
    shaped = Reshape (scaled, shape)
    no_fraction = Constant <value = double {6755399441055744.0}> ()
    pushed = Add (shaped, no_fraction)
    rounded = Sub (pushed, no_fraction)
    narrow = Cast <to = 1> (rounded)
    one = Constant <value = float {1.0}> ()
    scalar = Constant <value = int64[0] {}> ()
    yz_scalar = Reshape (yz, scalar)
    y = QuantizeLinear (narrow, one, yz_scalar)
"""
"""1.5 · 2⁵² leaves a double no bits for a fraction: adding it rounds to the nearest, ties to even.
(`Round` is newer than `QLinearConv`.)"""
_CHANNELS = """
    shape = Shape (sum)
    planes = Constant <value = int64[3] {0, 0, -1}> ()
    sum_planes = Reshape (sum, planes)
    column = Constant <value = int64[2] {-1, 1}> ()
    bias_wide = Cast <to = 11> (bias)
    bias_rows = Reshape (bias_wide, column)
    biased = Add (sum_planes, bias_rows)
    as_wide = Cast <to = 11> (as)
    bs_wide = Cast <to = 11> (bs)
    bs_rows = Reshape (bs_wide, column)
    product_scale = Mul (as_wide, bs_rows)
"""
_ADDED_BIAS = """
    bias_wide = Cast <to = 11> (bias)
    biased = Add (sum, bias_wide)
"""
_DYNAMIC = "a, as, az = DynamicQuantizeLinear (x)\n"


def write_out(proto: bytes) -> bytes:
    """The model with its products of 8-bit integers written out; the same bytes without any.

    Tensors keep their names, types and shapes.

    Args:
        proto: a serialised `onnx.ModelProto`.
    """
    import onnx
    from onnx import inliner

    if not any(op.rpartition(".")[2].encode() in proto for op in _FORMS):
        return proto
    model = onnx.load_model_from_string(proto)
    if model.functions:
        model = inliner.inline_local_functions(model)
    calls, changed = Calls(model, types_of(model, trusting=True)), False
    for graph in nested(model.graph):
        for node in graph.node:
            if write := _FORMS.get(op_of(node)):
                write(calls, node)
                changed = True
    return calls.finish() if changed else proto


def _matmul_integer(calls: Calls, node: onnx.NodeProto) -> None:
    zero = calls.constant(0)
    a, b = node.input[:2]
    operands = {
        "a": a,
        "b": b,
        "az": input_at(node, 2) or zero,
        "bz": input_at(node, 3) or zero,
    }
    calls.call(node, "MatMulInteger", operands, _MATRICES + _INT32)


def _qlinear_matmul(calls: Calls, node: onnx.NodeProto) -> None:
    operands = dict(zip(("a", "as", "az", "b", "bs", "bz", "ys", "yz"), node.input, strict=True))
    body = _MATRICES + _SCALED_MATRIX + "biased = Identity (sum)\n" + _REQUANTISED
    calls.call(node, "QLinearMatMul", operands, body)


def _matmul_integer_to_float(calls: Calls, node: onnx.NodeProto) -> None:
    zero = calls.constant(0)
    operands = dict(zip(("a", "b", "as", "bs"), node.input, strict=False))
    operands |= {
        name: input_at(node, index) or zero for name, index in (("az", 4), ("bz", 5), ("bias", 6))
    }
    body = _MATRICES + _SCALED_MATRIX + _FLOAT
    calls.call(node, "MatMulIntegerToFloat", operands, body)


def _dynamic_quantize_matmul(calls: Calls, node: onnx.NodeProto) -> None:
    zero = calls.constant(0)
    operands = dict(zip(("x", "b", "bs"), node.input, strict=False))
    operands |= {name: input_at(node, index) or zero for name, index in (("bz", 3), ("bias", 4))}
    body = _DYNAMIC + _MATRICES + _SCALED_MATRIX + _FLOAT
    calls.call(node, "DynamicQuantizeMatMul", operands, body)


def _qgemm(calls: Calls, node: onnx.NodeProto) -> None:
    zero = calls.constant(0)
    alpha = next((attribute.f for attribute in node.attribute if attribute.name == "alpha"), 1.0)
    operands = dict(zip(("a0", "as0", "az", "b0", "bs", "bz"), node.input, strict=False))
    operands |= {"bias": input_at(node, 6) or zero, "alpha": calls.constant(alpha)}
    turn_a, turn_b = option_of(node, "transA"), option_of(node, "transB")
    body = (
        f"a = {_turned('a0', turn_a)}\nb = {_turned('b0', turn_b)}\n"
        "as = Mul (as0, alpha)\n" + _MATRICES + _SCALED_MATRIX + _ADDED_BIAS
    )
    variant = f"QGemm_{turn_a}_{turn_b}"
    if input_at(node, 7):
        operands |= {"ys": node.input[7], "yz": input_at(node, 8) or zero}
        calls.call(node, variant, operands, body + _REQUANTISED)
    else:
        scaled = "scaled = Mul (biased, product_scale)\ny = Cast <to = 1> (scaled)\n"
        calls.call(node, f"{variant}_float", operands, body + scaled)


def _turned(name: str, turn: int) -> str:
    return f"Transpose <perm = [1, 0]> ({name})" if turn else f"Identity ({name})"


def _conv_integer(calls: Calls, node: onnx.NodeProto) -> None:
    zero = calls.constant(0)
    x, w = node.input[:2]
    operands = {
        "x": x,
        "w": w,
        "xz": input_at(node, 2) or zero,
        "wz": input_at(node, 3) or zero,
    }
    pieces, present = _pieces(calls, w), present_options(node, _CONV)
    calls.call(
        node,
        variant_of("ConvInteger", *pieces, *present),
        operands,
        _convolution(pieces, present) + _INT32,
        attributes=present,
    )


def _qlinear_conv(calls: Calls, node: onnx.NodeProto) -> None:
    names = ("x", "as", "xz", "w", "bs", "wz", "ys", "yz")
    operands = dict(zip(names, node.input, strict=False))
    operands["bias"] = input_at(node, 8) or calls.constant(0)
    pieces, present = _pieces(calls, operands["w"]), present_options(node, _CONV)
    body = _convolution(pieces, present) + _CHANNELS + _REQUANTISED
    if not option_of(node, "channels_last"):
        calls.call(
            node, variant_of("QLinearConv", *pieces, *present), operands, body, attributes=present
        )
        return
    rank = len(_shape(calls, operands["w"])) or 4
    operands = {"x_last" if name == "x" else name: operand for name, operand in operands.items()}
    body = (
        f"x = Transpose <perm = {[0, rank - 1, *range(1, rank - 1)]}> (x_last)\n{body}"
        f"y_last = Transpose <perm = {[0, *range(2, rank), 1]}> (y)\n"
    )
    variant = variant_of("QLinearConv_last", rank, *pieces, *present)
    calls.call(node, variant, operands, body, attributes=present, outputs=["y_last"])


def _pieces(calls: Calls, weights: str) -> tuple[int, int]:
    """Into how many pieces data and weights are cut so that float32 holds each sum of products."""
    sizes = _shape(calls, weights)[1:]
    known = [size for size in sizes if isinstance(size, int)]
    count = math.prod(known) if known and len(known) == len(sizes) else _UNKNOWN
    fitting = (
        (x, w) for x, w in _LADDER if count * _LARGEST_OF_PIECES[x] * _LARGEST_OF_PIECES[w] <= 2**24
    )
    return next(fitting, _LADDER[-1])


def _shape(calls: Calls, tensor: str) -> tuple[Dim, ...]:
    """A tensor's shape; empty where its rank is not known."""
    known = calls.types.get(tensor)
    return (known.shape or ()) if known is not None else ()


def _convolution(pieces: tuple[int, int], present: Sequence[str]) -> str:
    attributes = handed_on(_CONV, present)
    lines = [
        "x_wide = Cast <to = 1> (x)",
        "xz_wide = Cast <to = 1> (xz)",
        "x_exact = Sub (x_wide, xz_wide)",
        "w_shape = Shape (w)",
        "w_wide = Cast <to = 1> (w)",
        "wz_wide = Cast <to = 1> (wz)",
        "w_rows = Constant <value = int64[2] {0, -1}> ()",
        "w_matrix = Reshape (w_wide, w_rows)",
        "wz_column = Constant <value = int64[2] {-1, 1}> ()",
        "wz_rows = Reshape (wz_wide, wz_column)",
        "w_zeroed = Sub (w_matrix, wz_rows)",
        "w_exact = Reshape (w_zeroed, w_shape)",
        *_cut("x", pieces[0]),
        *_cut("w", pieces[1]),
    ]
    terms = []
    for i in range(pieces[0]):
        for j in range(pieces[1]):
            power = _base(pieces[0]) ** i * _base(pieces[1]) ** j
            lines += [
                f"sum_{i}{j} = Conv {attributes} (x_{i}, w_{j})",
                f"wide_{i}{j} = Cast <to = 11> (sum_{i}{j})",
                f"power_{i}{j} = Constant <value = double {{{power}.0}}> ()",
                f"term_{i}{j} = Mul (wide_{i}{j}, power_{i}{j})",
            ]
            terms.append(f"term_{i}{j}")
    return "\n".join([*lines, f"sum = Sum ({', '.join(terms)})", ""])


def _base(count: int) -> int:
    return int(2 ** math.ceil(8 / count))


def _cut(name: str, count: int) -> Iterator[str]:
    """Lines that cut `name`_exact into `name`_0 … : all but the last are in 0 … base - 1."""
    rest = f"{name}_exact"
    if count > 1:
        yield f"{name}_base = Constant <value = float {{{_base(count)}.0}}> ()"
    for i in range(count - 1):
        yield f"{name}_quotient_{i} = Div ({rest}, {name}_base)"
        yield f"{name}_rest_{i} = Floor ({name}_quotient_{i})"
        yield f"{name}_taken_{i} = Mul ({name}_rest_{i}, {name}_base)"
        yield f"{name}_{i} = Sub ({rest}, {name}_taken_{i})"
        rest = f"{name}_rest_{i}"
    yield f"{name}_{count - 1} = Identity ({rest})"


def _matmul_of_few_bits(_: Calls, node: onnx.NodeProto) -> None:
    """Activations stay float: a level of accuracy lets a runtime quantise them, the model does not.

    Changed in place: it needs no call.
    """
    for attribute in node.attribute:
        if attribute.name == "accuracy_level":
            attribute.i = 1


_FORMS: dict[str, Callable[[Calls, onnx.NodeProto], None]] = {
    "ConvInteger": _conv_integer,
    "MatMulInteger": _matmul_integer,
    "QLinearConv": _qlinear_conv,
    "QLinearMatMul": _qlinear_matmul,
    f"{_MS}.DynamicQuantizeLSTM": quantised_lstm,
    f"{_MS}.DynamicQuantizeMatMul": _dynamic_quantize_matmul,
    f"{_MS}.MatMulIntegerToFloat": _matmul_integer_to_float,
    f"{_MS}.MatMulNBits": _matmul_of_few_bits,
    f"{_MS}.QAttention": quantised_attention,
    f"{_MS}.QGemm": _qgemm,
    f"{_MS}.QLinearConv": _qlinear_conv,
}
