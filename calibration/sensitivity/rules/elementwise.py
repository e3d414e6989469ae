"""Gradients of operators on one element of each input.

y = Relu | Clip(x)   →  ∂x = ∂y where y = x, else 0
y = f(x), smooth     →  ∂x = ∂y · (f(x + h) - f(x - h)) / 2h
y = a + b            →  ∂a = ∂b = ∂y, summed over what was broadcast
y = a · b            →  ∂a = ∂y · b
y = a / b            →  ∂a = ∂y / b, ∂b = -∂y · y / b
y = Where(c, a, b)   →  ∂a = ∂y where c, else 0
y = Min | Max(a, b)  →  ∂a = ∂y where y = a, else 0
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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

_STEP = 1e-2  # of the central difference: its error falls with h², float32's grows with 1/h


def _kink(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    x, y = node.input[0], node.output[0]
    yield x, to.node("Where", _equal(to, node, x, y), g, to.constant(0))


def _equal(to: Writer, node: onnx.NodeProto, x: str, y: str) -> str:
    return to.once(node, f"is {x}", lambda: to.node("Equal", x, y))


def _smooth(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    yield node.input[0], to.node("Mul", g, to.once(node, "slope", lambda: _slope(to, node)))


def _slope(to: Writer, node: onnx.NodeProto) -> str:
    step, options = to.constant(_STEP), attributes(node)
    ahead, behind = (
        to.node(node.op_type, to.node(op, node.input[0], step), *node.input[1:], **options)
        for op in ("Add", "Sub")
    )
    return to.node("Div", to.node("Sub", ahead, behind), to.constant(2 * _STEP))


def _sum(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    for name in node.input:
        yield from to.unbroadcast(node, name, lambda: g)


def _mean(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    return _sum(to, node, to.node("Div", g, to.constant(len(node.input))))


def _difference(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    yield from to.unbroadcast(node, node.input[0], lambda: g)
    yield from to.unbroadcast(node, node.input[1], lambda: to.node("Neg", g))


def _product(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    a, b = node.input
    yield from to.unbroadcast(node, a, lambda: to.node("Mul", g, b))
    yield from to.unbroadcast(node, b, lambda: to.node("Mul", g, a))


def _quotient(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    (a, b), y = node.input, node.output[0]
    share = to.node("Div", g, b)
    yield from to.unbroadcast(node, a, lambda: share)
    yield from to.unbroadcast(node, b, lambda: to.node("Neg", to.node("Mul", share, y)))


def _power(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    to.refuse_moving(node, [1], "whose exponent is an activation")
    exponent = to.value(node, 1)
    if exponent is None:
        raise no_gradient(node, "whose exponent is computed")
    factor, less = to.constant(exponent), to.constant(exponent.astype(np.float32) - 1)
    x = node.input[0]
    slope = to.once(node, "slope", lambda: to.node("Mul", factor, to.node("Pow", x, less)))
    yield from to.unbroadcast(node, x, lambda: to.node("Mul", g, slope))


def _root(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    twice = to.node("Mul", node.output[0], to.constant(2))
    yield node.input[0], to.node("Div", g, twice)


def _reciprocal(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    y = node.output[0]
    yield node.input[0], to.node("Neg", to.node("Mul", g, to.node("Mul", y, y)))


def _exponential(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    yield node.input[0], to.node("Mul", g, node.output[0])


def _logarithm(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    yield node.input[0], to.node("Div", g, node.input[0])


def _absolute(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    yield node.input[0], to.node("Mul", g, to.node("Sign", node.input[0]))


def _negative(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    yield node.input[0], to.node("Neg", g)


def _identity(_: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    yield node.input[0], g


def _extreme(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    zero = to.constant(0)
    for name in dict.fromkeys(node.input):

        def part(name: str = name) -> str:
            return to.node("Where", _equal(to, node, name, node.output[0]), g, zero)

        yield from to.unbroadcast(node, name, part)


def _where(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    condition, a, b = node.input
    zero = to.constant(0)
    yield from to.unbroadcast(node, a, lambda: to.node("Where", condition, g, zero))
    yield from to.unbroadcast(node, b, lambda: to.node("Where", condition, zero, g))


def _sloped(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    x, slope = node.input
    to.refuse_moving(node, [1], "whose slope is an activation")
    negative = to.once(node, "negative", lambda: to.node("Less", x, to.constant(0)))
    yield x, to.node("Where", negative, to.node("Mul", g, slope), g)


def _running_sum(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    options = dict(attributes(node))
    options["reverse"] = 1 - options.get("reverse", 0)
    yield node.input[0], to.node("CumSum", g, node.input[1], **options)


def _triangle(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    yield node.input[0], to.node("Trilu", g, *node.input[1:], **attributes(node))


_SMOOTH = (
    "Atan",
    "Celu",
    "Cos",
    "Elu",
    "Erf",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "Mish",
    "Selu",
    "Sigmoid",
    "Sin",
    "Softplus",
    "Softsign",
    "Swish",
    "Tanh",
    "ThresholdedRelu",
)

RULES: dict[str, Rule] = {
    "Add": _sum,
    "Sum": _sum,
    "Mean": _mean,
    "Sub": _difference,
    "Mul": _product,
    "Div": _quotient,
    "Pow": _power,
    "Sqrt": _root,
    "Reciprocal": _reciprocal,
    "Exp": _exponential,
    "Log": _logarithm,
    "Abs": _absolute,
    "Neg": _negative,
    "Where": _where,
    "PRelu": _sloped,
    "CumSum": _running_sum,
    "Trilu": _triangle,
    "Expand": lambda to, node, g: to.unbroadcast(node, node.input[0], lambda: g),
    **dict.fromkeys(("Max", "Min"), _extreme),
    **dict.fromkeys(("Relu", "Clip"), _kink),
    **dict.fromkeys(_SMOOTH, _smooth),
    # A rounding is taken for none: what is lost to one is not what is looked for here.
    **dict.fromkeys(
        ("Cast", "CastLike", "DequantizeLinear", "Dropout", "Identity", "QuantizeLinear"), _identity
    ),
}
