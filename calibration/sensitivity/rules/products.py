"""Gradients of matrix products and convolutions.

y = Conv(x, w)     →  ∂x = ConvTranspose(∂y, w)
y = A · B          →  ∂A = ∂y · Bᵀ, ∂B = Aᵀ · ∂y, summed over what was broadcast
y = Einsum(A, B)   →  ∂A = Einsum(∂y, B), with the letters of A at its end
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rtc.calibration.sensitivity.rules.writing import (
    Gradients,
    Rule,
    Writer,
    attributes,
    no_gradient,
)
from rtc.compiler.core.tensors import Shape

if TYPE_CHECKING:
    import onnx

_MATRIX = 2  # axes


def _convolution(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    to.refuse_moving(node, [1, 2], "whose weights are activations")
    x, w = node.input[:2]
    options = dict(attributes(node))
    rank = to.rank(node, x) - 2
    source, kernel = to.shape(node, x)[2:], to.shape(node, w)[2:]
    strides, dilations = (options.get(k, [1] * rank) for k in ("strides", "dilations"))
    wide = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    options["pads"] = _pads(options, source, wide, strides)
    options.pop("auto_pad", None)
    begin, end = options["pads"][:rank], options["pads"][rank:]
    reach = (source[i] + begin[i] + end[i] - wide[i] for i in range(rank))
    # Rows and columns of x that the strides skipped at its end.
    options["output_padding"] = [left % s for left, s in zip(reach, strides, strict=True)]
    to.ran(node)
    yield x, to.node("ConvTranspose", g, w, **options)


def _pads(
    options: dict[str, Any], source: Shape, wide: Sequence[int], strides: Sequence[int]
) -> list[int]:
    """What a convolution pads: at the beginning of each axis, then at the end of each."""
    how = options.get("auto_pad", b"NOTSET")
    if how not in (b"SAME_UPPER", b"SAME_LOWER"):
        given = options.get("pads") if how == b"NOTSET" else None
        return list(given or [0] * 2 * len(source))
    sizes = zip(source, wide, strides, strict=True)
    total = [max(0, (-(-n // s) - 1) * s + k - n) for n, k, s in sizes]
    small, large = [pad // 2 for pad in total], [pad - pad // 2 for pad in total]
    return small + large if how == b"SAME_UPPER" else large + small


def _transposed_convolution(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    to.refuse_moving(node, [1, 2], "whose weights are activations")
    options = dict(attributes(node))
    if {"auto_pad", "output_shape"} & options.keys():
        raise no_gradient(node, "with automatic padding")
    options.pop("output_padding", None)
    to.ran(node)
    yield node.input[0], to.node("Conv", g, node.input[1], **options)


def _gemm(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    options = attributes(node)
    scaled = {"alpha": options.get("alpha", 1.0)}
    (a, b), turned = node.input[:2], [options.get(side, 0) for side in ("transA", "transB")]
    if a in to.moving:
        to.ran(node)
        yield (
            a,
            (
                to.node("Gemm", b, g, transA=turned[1], transB=1, **scaled)
                if turned[0]
                else to.node("Gemm", g, b, transB=1 - turned[1], **scaled)
            ),
        )
    if b in to.moving:
        to.ran(node)
        yield (
            b,
            (
                to.node("Gemm", g, a, transA=1, transB=turned[0], **scaled)
                if turned[1]
                else to.node("Gemm", a, g, transA=1 - turned[0], **scaled)
            ),
        )
    if len(node.input) > 2:
        beta = to.constant(options.get("beta", 1.0))
        yield from to.unbroadcast(node, node.input[2], lambda: to.node("Mul", g, beta))


def _matmul(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    a, b = node.input
    ranks = to.rank(node, a), to.rank(node, b)
    if min(ranks) < _MATRIX:
        raise no_gradient(node, "of a vector")
    if a in to.moving:
        to.ran(node)
        yield a, _unbatched(to, node, a, to.node("MatMul", g, _turned(to, b, ranks[1])))
    if b in to.moving:
        to.ran(node)
        yield b, _unbatched(to, node, b, to.node("MatMul", _turned(to, a, ranks[0]), g))


def _turned(to: Writer, name: str, rank: int) -> str:
    return to.node("Transpose", name, perm=[*range(rank - 2), rank - 1, rank - 2])


def _unbatched(to: Writer, node: onnx.NodeProto, name: str, g: str) -> str:
    """Added up over the axes before the matrix that one matrix served."""
    own, full = to.shape(node, name)[:-2], to.shape(node, node.output[0])[:-2]
    extra = len(full) - len(own)
    axes = [i for i in range(len(own)) if own[i] == 1 and full[i + extra] != 1]
    return to.added(to.added(g, range(extra), keep=False), axes)


def _einsum(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    equation = attributes(node)["equation"].decode().replace(" ", "")
    given, _, result = equation.partition("->")
    terms = given.split(",")
    simple = "->" in equation and "." not in equation
    if not simple or any(len(set(term)) < len(term) for term in (*terms, result)):
        raise no_gradient(node, f"({equation})")
    for index, (name, term) in enumerate(zip(node.input, terms, strict=True)):
        if name not in to.moving:
            continue
        others = [i for i in range(len(terms)) if i != index]
        letters = set(result).union(*(terms[i] for i in others))
        kept = "".join(letter for letter in term if letter in letters)
        back = ",".join([result, *(terms[i] for i in others)]) + "->" + kept
        gradient = to.to.node("Einsum", [g, *(node.input[i] for i in others)], equation=back)
        summed = [axis for axis, letter in enumerate(term) if letter not in letters]
        if summed:  # added up by the node alone: each element has the whole gradient
            gradient = to.node("Unsqueeze", gradient, to.axes(summed))
            gradient = to.node("Expand", gradient, to.shape_of(name))
        yield name, gradient


RULES: dict[str, Rule] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Einsum": _einsum,
}
