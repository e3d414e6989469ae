"""Gradients of sums, means and what is normalised by them. With s(·) a sum along the axes:

y = s(x)                           →  ∂x = ∂y, for each element
y = Max(x)                         →  ∂x = ∂y where x = y, else 0
y = Softmax(x)                     →  ∂x = y · (∂y - s(∂y · y))
y = LogSoftmax(x)                  →  ∂x = ∂y - e^y · s(∂y)
y = n(x) · w + b, n = (x - μ) / σ  →  ∂x = (h - mean(h) - n · mean(h · n)) / σ, h = ∂y · w
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rtc.calibration.sensitivity.rules.writing import (
    Gradients,
    Rule,
    Writer,
    attributes,
    no_gradient,
)

if TYPE_CHECKING:
    import onnx

_ONE_AXIS = 13  # the first opset whose softmax is along one axis, not along all from it on


def _axes(to: Writer, node: onnx.NodeProto) -> list[int]:
    """The axes of a reduction, counted from the first."""
    rank, axes = to.rank(node, node.input[0]), attributes(node).get("axes")
    if len(node.input) > 1 and node.input[1]:
        given = to.value(node, 1)
        if given is None:
            raise no_gradient(node, "along axes that are computed")
        axes = given.tolist()
    if axes is None or len(axes) == 0:
        axes = [] if attributes(node).get("noop_with_empty_axes") else range(rank)
    return sorted(int(axis) % rank for axis in axes)


def _spread(to: Writer, node: onnx.NodeProto, tensor: str) -> str:
    """What there is one of for each result, in a shape that goes with the input's."""
    axes = _axes(to, node)
    if attributes(node).get("keepdims", 1) or not axes:
        return tensor
    return to.node("Unsqueeze", tensor, to.axes(axes))


def _reduction(slope: Callable[[Writer, onnx.NodeProto, str], str]) -> Rule:
    """The rule of a reduction; `slope` is that of one element, given the result spread."""

    def rule(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
        factor = to.once(node, "slope", lambda: slope(to, node, _spread(to, node, node.output[0])))
        gradient = to.node("Mul", _spread(to, node, g), factor)
        yield node.input[0], to.node("Expand", gradient, to.shape_of(node.input[0]))

    return rule


def _share(to: Writer, node: onnx.NodeProto, _: str) -> str:
    """One over the number of elements in a result."""
    import onnx

    sizes = (to.node("Size", name) for name in (node.output[0], node.input[0]))
    counts = [to.node("Cast", size, to=onnx.TensorProto.FLOAT) for size in sizes]
    return to.node("Div", *counts)


def _one(to: Writer, _: onnx.NodeProto, __: str) -> str:
    return to.constant(1)


def _is_result(to: Writer, node: onnx.NodeProto, y: str) -> str:
    import onnx

    return to.node("Cast", to.node("Equal", node.input[0], y), to=onnx.TensorProto.FLOAT)


def _over_result(to: Writer, node: onnx.NodeProto, y: str) -> str:
    return to.node("Div", node.input[0], y)


def _twice(to: Writer, node: onnx.NodeProto, _: str) -> str:
    return to.node("Mul", node.input[0], to.constant(2))


def _sign(to: Writer, node: onnx.NodeProto, _: str) -> str:
    return to.node("Sign", node.input[0])


def _weight(to: Writer, node: onnx.NodeProto, y: str) -> str:
    return to.node("Exp", to.node("Sub", node.input[0], y))


def _softmax_axes(to: Writer, node: onnx.NodeProto) -> list[int]:
    rank = to.rank(node, node.input[0])
    if to.opset >= _ONE_AXIS:
        return [attributes(node).get("axis", -1) % rank]
    return list(range(attributes(node).get("axis", 1) % rank, rank))


def _softmax(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    y = node.output[0]
    mean = to.added(to.node("Mul", g, y), _softmax_axes(to, node))
    yield node.input[0], to.node("Mul", y, to.node("Sub", g, mean))


def _log_softmax(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    p = to.once(node, "p", lambda: to.node("Exp", node.output[0]))
    total = to.added(g, _softmax_axes(to, node))
    yield node.input[0], to.node("Sub", g, to.node("Mul", p, total))


class _Part(NamedTuple):
    """What is normalised together: a tensor along axes, of so many elements."""

    tensor: str
    axes: Sequence[int]
    number: int

    def mean(self, to: Writer, tensor: str) -> str:
        return to.node("Div", to.added(tensor, self.axes), to.constant(self.number))


def _normalised(to: Writer, node: onnx.NodeProto, part: _Part, h: str) -> str:
    """The gradient of a part x, given h at n(x)."""
    x = part.tensor
    centred = to.once(node, "centred", lambda: to.node("Sub", x, part.mean(to, x)))

    def deviation() -> str:
        variance = part.mean(to, to.node("Mul", centred, centred))
        small = to.constant(attributes(node).get("epsilon", 1e-5))
        return to.node("Sqrt", to.node("Add", variance, small))

    sigma = to.once(node, "deviation", deviation)
    n = to.once(node, "normal", lambda: to.node("Div", centred, sigma))
    along = to.node("Mul", n, part.mean(to, to.node("Mul", h, n)))
    left = to.node("Sub", to.node("Sub", h, part.mean(to, h)), along)
    return to.node("Div", left, sigma)


def _layer(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    to.refuse_moving(node, [1, 2], "whose weights are activations")
    x = node.input[0]
    shape = to.shape(node, x)
    axes = list(range(attributes(node).get("axis", -1) % len(shape), len(shape)))
    part = _Part(x, axes, math.prod(shape[axis] for axis in axes))
    yield x, _normalised(to, node, part, to.node("Mul", g, node.input[1]))


def _instance(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    to.refuse_moving(node, [1, 2], "whose weights are activations")
    x = node.input[0]
    shape = to.shape(node, x)
    axes = list(range(2, len(shape)))
    weight = to.node("Reshape", node.input[1], to.axes([1, -1, *[1] * len(axes)]))
    h = to.node("Mul", g, weight)
    yield x, _normalised(to, node, _Part(x, axes, math.prod(shape[2:])), h)


def _group(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    """Channels in groups; the weights are of groups before opset 21, then of channels."""
    to.refuse_moving(node, [1, 2], "whose weights are activations")
    x, groups = node.input[0], attributes(node)["num_groups"]
    shape = to.shape(node, x)
    weight = to.value(node, 1)
    if weight is None:
        raise no_gradient(node, "whose weights are computed")
    by_channel = np.repeat(weight, shape[1] // len(weight)).reshape(1, -1, *[1] * (len(shape) - 2))
    apart = to.axes([0, groups, -1])
    h = to.node("Reshape", to.node("Mul", g, to.constant(by_channel)), apart)
    grouped = to.once(node, "grouped", lambda: to.node("Reshape", x, apart))
    part = _Part(grouped, [2], math.prod(shape[1:]) // groups)
    yield x, to.like(_normalised(to, node, part, h), x)


def _batch(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    scale, variance = to.value(node, 1), to.value(node, 4)
    if scale is None or variance is None or attributes(node).get("training_mode", 0):
        raise no_gradient(node, "whose statistics are computed")
    factor = scale / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
    shape = (1, -1, *[1] * (to.rank(node, node.input[0]) - 2))
    yield node.input[0], to.node("Mul", g, to.constant(factor.reshape(shape)))


def _length(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    """Of y = x / ‖x‖₂ along an axis: ∂x = (∂y - y · s(∂y · y)) / ‖x‖₂."""
    if attributes(node).get("p", 2) != 2:
        raise no_gradient(node, "but of the Euclidean length")
    (x,), y = node.input, node.output[0]
    axis = [attributes(node).get("axis", -1) % to.rank(node, x)]
    length = to.once(node, "length", lambda: to.node("Sqrt", to.added(to.node("Mul", x, x), axis)))
    along = to.node("Mul", y, to.added(to.node("Mul", g, y), axis))
    yield x, to.node("Div", to.node("Sub", g, along), length)


def _global_pool(slope: Callable[[Writer, onnx.NodeProto, str], str]) -> Rule:
    """The rule of a pool over the whole image, whose result keeps its axes."""

    def rule(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
        factor = to.once(node, "slope", lambda: slope(to, node, node.output[0]))
        gradient = to.node("Mul", g, factor)
        yield node.input[0], to.node("Expand", gradient, to.shape_of(node.input[0]))

    return rule


RULES: dict[str, Rule] = {
    "ReduceSum": _reduction(_one),
    "ReduceMean": _reduction(_share),
    "ReduceMax": _reduction(_is_result),
    "ReduceMin": _reduction(_is_result),
    "ReduceL1": _reduction(_sign),
    "ReduceL2": _reduction(_over_result),
    "ReduceSumSquare": _reduction(_twice),
    "ReduceLogSumExp": _reduction(_weight),
    "GlobalAveragePool": _global_pool(_share),
    "GlobalMaxPool": _global_pool(_is_result),
    "Softmax": _softmax,
    "LogSoftmax": _log_softmax,
    "LayerNormalization": _layer,
    "InstanceNormalization": _instance,
    "GroupNormalization": _group,
    "BatchNormalization": _batch,
    "LpNormalization": _length,
}
