"""Operators into which ONNX Runtime fuses others, as those that they were.

By the definitions of ONNX Runtime's contributed operators (its documentation, "Contrib Operators").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from rtc.compiler.core.parts import Form, Parts, Unwritten

_MS = "com.microsoft"
_CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_LAYER_NORM_OPSET = 17

# What a product is fused with


def _activated(parts: Parts, tensor: str, kind: str, params: Sequence[float]) -> None:
    """Apply an activation that a fused operator names, and make the node's output.

    The parameters are those of the activation in ONNX Runtime: alpha and beta; Clip's are its ends.
    """
    if kind == "":
        parts.add("Identity", tensor, output=0)
    elif kind in ("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign"):
        parts.add(kind, tensor, output=0)
    elif kind in ("LeakyRelu", "Elu", "ThresholdedRelu") and len(params) >= 1:
        parts.add(kind, tensor, output=0, alpha=params[0])
    elif kind == "HardSigmoid" and len(params) >= 2:
        parts.add(kind, tensor, output=0, alpha=params[0], beta=params[1])
    elif kind == "Clip" and len(params) >= 2:
        ends = (parts.constant("low", params[0]), parts.constant("high", params[1]))
        parts.add("Clip", tensor, *ends, output=0)
    else:
        raise Unwritten(f"its activation {kind} is not known")


def _fused_conv(parts: Parts) -> None:
    made = parts.add("Conv", *_until_last(parts, 3), layer=True, **parts.options(*_CONV))
    if parts.given(3):
        made = parts.add("Add", made, parts.given(3))
    _activated(parts, made, parts.option("activation", ""), parts.option("activation_params", []))


def _until_last(parts: Parts, count: int) -> list[str]:
    inputs = [parts.given(index) for index in range(count)]
    while inputs and not inputs[-1]:
        inputs.pop()
    return inputs


def _fused_gemm(parts: Parts) -> None:
    options = parts.options("alpha", "beta", "transA", "transB")
    made = parts.add("Gemm", *_until_last(parts, 3), layer=True, **options)
    names = ("activation_alpha", "activation_beta")
    params = [parts.option(name, None) for name in names]
    _activated(parts, made, parts.option("activation", ""), [p for p in params if p is not None])


def _fused_matmul(parts: Parts) -> None:
    if parts.option("transBatchA", 0) or parts.option("transBatchB", 0):
        raise Unwritten("it turns the batch as well")
    a, b = (
        _turned(parts, parts.given(index)) if parts.option(name, 0) else parts.given(index)
        for index, name in enumerate(("transA", "transB"))
    )
    alpha = parts.option("alpha", 1.0)
    if alpha == 1.0:
        parts.add("MatMul", a, b, output=0, layer=True)
        return
    parts.add(
        "Mul", parts.add("MatMul", a, b, layer=True), parts.constant("alpha", alpha), output=0
    )


def _turned(parts: Parts, tensor: str) -> str:
    """A tensor with its last two axes exchanged; one of one axis is left, as ONNX Runtime does."""
    rank = parts.rank(tensor)
    if rank < 2:
        return tensor
    order = [*range(rank - 2), rank - 1, rank - 2]
    if tensor in parts.stored:
        turned = np.ascontiguousarray(parts.value(tensor).transpose(order))
        return parts.constant(f"turned_{len(parts.nodes)}", turned)
    return parts.add("Transpose", tensor, perm=order)


# Activations


def _gelu(parts: Parts) -> None:
    x = parts.given(0)
    if parts.given(1):  # BiasGelu
        x = parts.add("Add", x, parts.given(1))
    scaled = parts.add("Div", x, parts.constant("root_of_2", math.sqrt(2)))
    shifted = parts.add("Add", parts.add("Erf", scaled), parts.constant("one", 1.0))
    half = parts.add("Mul", x, parts.constant("half", 0.5))
    parts.add("Mul", half, shifted, output=0)


def _fast_gelu(parts: Parts) -> None:
    """x/2 · (1 + tanh(√(2/π) · (x + 0.044715 · x³))): Hendrycks and Gimpel, arXiv:1606.08415."""
    x = parts.given(0)
    if parts.given(1):
        x = parts.add("Add", x, parts.given(1))
    cube = parts.add("Mul", parts.add("Mul", x, x), x)
    bent = parts.add("Add", x, parts.add("Mul", cube, parts.constant("bend", 0.044715)))
    scaled = parts.add("Mul", bent, parts.constant("root", math.sqrt(2 / math.pi)))
    shifted = parts.add("Add", parts.add("Tanh", scaled), parts.constant("one", 1.0))
    half = parts.add("Mul", x, parts.constant("half", 0.5))
    parts.add("Mul", half, shifted, output=0)


def _quick_gelu(parts: Parts) -> None:
    scaled = parts.add("Mul", parts.given(0), parts.constant("alpha", parts.option("alpha", 1.702)))
    parts.add("Mul", parts.given(0), parts.add("Sigmoid", scaled), output=0)


# Parts of transformers


def _skip_layer_norm(parts: Parts) -> None:
    if parts.wanted(1) or parts.wanted(2):
        raise Unwritten("its mean or deviation is read")
    _need(parts, _LAYER_NORM_OPSET)
    x, skip, gamma, beta, bias = (parts.given(index) for index in range(5))
    total = parts.add("Add", x, skip, output=3 if parts.wanted(3) and not bias else None)
    if bias:
        total = parts.add("Add", total, bias, output=3 if parts.wanted(3) else None)
    inputs = [total, gamma, *([beta] if beta else [])]
    epsilon = parts.option("epsilon", 1e-12)
    parts.add("LayerNormalization", *inputs, output=0, layer=True, axis=-1, epsilon=epsilon)


def _need(parts: Parts, opset: int) -> None:
    if parts.opset < opset:
        raise Unwritten(f"opset {parts.opset} has no operator for it")


def _attention(parts: Parts) -> None:
    """softmax(q · kᵀ / √d) · v for each head, of one product that makes q, k and v."""
    if any(parts.given(index) for index in range(3, 8)) or parts.wanted(1):
        raise Unwritten("it has a mask or keeps what came before")
    if any(parts.option(name, 0) for name in ("unidirectional", "do_rotary")):
        raise Unwritten("it attends in one direction, or with rotary places")
    x, weights, bias = (parts.given(index) for index in range(3))
    heads = parts.option("num_heads", 0)
    widths = parts.option("qkv_hidden_sizes", None)
    last = parts.value(weights).shape[-1]
    widths = list(widths) if widths else [last // 3] * 3
    made = parts.add("MatMul", x, weights, layer=True)
    if bias:
        made = parts.add("Add", made, bias)
    ends = np.cumsum([0, *widths])
    query, key, value = (_slice(parts, made, int(start), int(end)) for start, end in pairwise(ends))
    scale = parts.option("scale", 0.0) or 1 / math.sqrt(widths[0] // heads)
    _attend(parts, (query, key, value), heads, scale)


def _slice(parts: Parts, tensor: str, start: int, end: int) -> str:
    """What stands between two places of a tensor's last axis."""
    ends = [
        parts.constant(f"{what}_{start}", np.array([place], np.int64))
        for what, place in (("from", start), ("to", end), ("axis", 2))
    ]
    return parts.add("Slice", tensor, *ends)


def _multi_head_attention(parts: Parts) -> None:
    if any(parts.given(index) for index in range(4, 10)) or parts.wanted(1):
        raise Unwritten("it has a mask or keeps what came before")
    if parts.option("unidirectional", 0):
        raise Unwritten("it attends in one direction")
    operands = [parts.given(index) for index in range(3)]
    if not all(operands) or any(parts.rank(operand) != 3 for operand in operands):
        raise Unwritten("query, key and value come packed")
    sizes = [parts.types[operand].shape or () for operand in operands]
    widths = [size[-1] for size in sizes]
    if not all(isinstance(width, int) for width in widths):
        raise Unwritten("the width of query, key and value is not known")
    if parts.given(3):
        bias, ends = parts.value(parts.given(3)), np.cumsum([0, *widths])
        operands = [
            parts.add("Add", operand, parts.constant(f"bias_{start}", bias[start:end]))
            for operand, start, end in zip(operands, ends[:-1], ends[1:], strict=True)
        ]
    heads = parts.option("num_heads", 0)
    scale = parts.option("scale", 0.0) or 1 / math.sqrt(int(widths[0]) // heads)
    _attend(parts, (operands[0], operands[1], operands[2]), heads, scale)


def _attend(parts: Parts, operands: tuple[str, str, str], heads: int, scale: float) -> None:
    shape = parts.constant("heads", np.array([0, 0, heads, -1], np.int64))
    orders = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    query, key, value = (
        parts.add("Transpose", parts.add("Reshape", operand, shape), perm=order)
        for operand, order in zip(operands, orders, strict=True)
    )
    scaled = parts.add("Mul", query, parts.constant("scale", scale))
    shares = parts.add("Softmax", parts.add("MatMul", scaled, key), axis=-1)
    seen = parts.add("Transpose", parts.add("MatMul", shares, value), perm=[0, 2, 1, 3])
    flat = parts.constant("flat", np.array([0, 0, -1], np.int64))
    parts.add("Reshape", seen, flat, output=0)


FUSED: dict[str, Form] = {
    f"{_MS}.Attention": _attention,
    f"{_MS}.BiasGelu": _gelu,
    f"{_MS}.FastGelu": _fast_gelu,
    f"{_MS}.FusedConv": _fused_conv,
    f"{_MS}.FusedGemm": _fused_gemm,
    f"{_MS}.FusedMatMul": _fused_matmul,
    f"{_MS}.Gelu": _gelu,
    f"{_MS}.MultiHeadAttention": _multi_head_attention,
    f"{_MS}.QuickGelu": _quick_gelu,
    f"{_MS}.SkipLayerNormalization": _skip_layer_norm,
    f"{_MS}.TransposeMatMul": _fused_matmul,
}
"""By operator."""
