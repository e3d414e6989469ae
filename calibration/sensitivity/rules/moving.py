"""Gradients of operators that move elements: what moved goes back, and adds up where it meets.

y = Reshape | Squeeze | … (x)  →  ∂x = Reshape(∂y, shape of x)
y = Concat(a, b)               →  ∂a, ∂b = Split(∂y)
a, b = Split(x)                →  ∂x = Concat(∂a, ∂b)
y = a stretch of x             →  ∂x = Pad(∂y)
y = any other selection of x   →  ∂y scattered to where it takes the numbers 0, 1, 2, … from
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

_SCATTERS = 16  # the first opset whose ScatterElements adds up


def _reshape(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    yield node.input[0], to.like(g, node.input[0])


def _transpose(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    default = list(range(to.rank(node, node.input[0])))[::-1]
    perm = attributes(node).get("perm", default)
    yield node.input[0], to.node("Transpose", g, perm=[int(i) for i in np.argsort(perm)])


def _concat(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    axis = attributes(node)["axis"]
    sizes = to.to.node("Concat", [to.size(node, name, axis) for name in node.input], axis=0)
    parts = to.to.nodes_of("Split", [g, sizes], len(node.input), axis=axis)
    return zip(node.input, parts, strict=True)


def _split(to: Writer, node: onnx.NodeProto, _: str) -> Gradients:
    parts = [to.found.get(name) or to.zeros(name) for name in node.output]
    axis = attributes(node).get("axis", 0)
    yield node.input[0], to.to.node("Concat", parts, axis=axis)


def _pad(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    if attributes(node).get("mode", b"constant") != b"constant":
        yield from _selected(to, node, g)
        return
    back = to.node("Neg", node.input[1])
    yield node.input[0], to.node("Pad", g, back, "", *node.input[3:])


def _slice(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    x = node.input[0]
    starts, ends, axes, steps = (to.value(node, index) for index in range(1, 5))
    whole = len(node.input) < 5 or (steps is not None and (steps == 1).all())
    named = len(node.input) < 4 or axes is not None or not node.input[3]
    if starts is None or ends is None or not whole or not named:
        yield from _selected(to, node, g)
        return
    shape = to.shape(node, x)
    along = range(len(starts)) if axes is None else axes.tolist()
    stretches = {}
    for axis, start, end in zip(along, starts.tolist(), ends.tolist(), strict=True):
        begin, until, _ = slice(start, end).indices(shape[axis])
        stretches[axis % len(shape)] = (begin, until)
    if any(shape[a] % to.base.mark == 0 and s != (0, shape[a]) for a, s in stretches.items()):
        yield from _selected(to, node, g)  # some samples of the batch
        return
    yield x, _placed(to, node, g, stretches)


def _gather(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    x, index = node.input[0], to.value(node, 1)
    shape, axis = to.shape(node, x), attributes(node).get("axis", 0) % to.rank(node, x)
    one = index is not None and index.size == 1 and index.ndim < 2
    if index is None or not one or shape[axis] % to.base.mark == 0:
        yield from _selected(to, node, g)
        return
    place = int(index.reshape(-1)[0]) % shape[axis]
    if index.ndim == 0:
        g = to.node("Unsqueeze", g, to.axes([axis]))
    yield x, _placed(to, node, g, {axis: (place, place + 1)})


def _placed(to: Writer, node: onnx.NodeProto, g: str, stretches: dict[int, tuple[int, int]]) -> str:
    """A gradient of a stretch, by axis, with zeros around."""
    shape = to.shape(node, node.input[0])
    rank = len(shape)
    pads = [0] * 2 * rank
    for axis, (begin, end) in stretches.items():
        pads[axis], pads[axis + rank] = begin, shape[axis] - max(begin, end)
    return to.node("Pad", g, to.axes(pads)) if any(pads) else g


def _selected(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    """Scattered to where the node takes a numbering of its input from."""
    import onnx

    if to.opset < _SCATTERS:
        raise no_gradient(node, f"before opset {_SCATTERS}")
    x = node.input[0]

    def numbered() -> str:
        # In float64, which all these operators take, and which counts far enough.
        zero, one = (to.constant(each, np.int64) for each in (0, 1))
        numbers = to.node("Range", zero, to.node("Size", x), one)
        shaped = to.like(to.node("Cast", numbers, to=onnx.TensorProto.DOUBLE), x)
        places = to.node(node.op_type, shaped, *node.input[1:], **attributes(node))
        return to.node("Cast", to.node("Reshape", places, to.axes([-1])), to=onnx.TensorProto.INT64)

    yield x, scattered(to, node, to.once(node, "places", numbered), g)


def scattered(to: Writer, node: onnx.NodeProto, places: str, g: str) -> str:
    """A gradient added up at places (flat) of a node's first input."""
    x, flat = node.input[0], to.axes([-1])
    nothing = to.node("Reshape", to.zeros(x), flat)
    spread = to.node(
        "ScatterElements", nothing, places, to.node("Reshape", g, flat), axis=0, reduction="add"
    )
    return to.like(spread, x)


def _replaced(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    """Of a tensor with elements put into it, or added to it: ∂x = ∂y (0 there), ∂u = ∂y there."""
    x, places, updates = node.input
    options = dict(attributes(node))
    how = options.pop("reduction", b"none")
    if how not in (b"none", b"add"):
        raise no_gradient(node, f"by {how.decode()}")
    taking = node.op_type.replace("Scatter", "Gather")
    yield updates, to.node(taking, g, places, **options)
    if how == b"none":
        g = to.node(node.op_type, g, places, to.zeros(updates), **options)
    yield x, g


def _max_pool(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    if to.opset < _SCATTERS:
        raise no_gradient(node, f"before opset {_SCATTERS}")

    def places() -> str:
        options = {**attributes(node), "storage_order": 0}
        _, indices = to.to.nodes_of("MaxPool", [node.input[0]], 2, **options)
        return to.node("Reshape", indices, to.axes([-1]))

    yield node.input[0], scattered(to, node, to.once(node, "places", places), g)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _reshape),
    "Transpose": _transpose,
    "Concat": _concat,
    "Split": _split,
    "Pad": _pad,
    "Slice": _slice,
    "Gather": _gather,
    "MaxPool": _max_pool,
    **dict.fromkeys(("ScatterElements", "ScatterND"), _replaced),
    **dict.fromkeys(
        (
            "DepthToSpace",
            "GatherElements",
            "GatherND",
            "ReverseSequence",
            "SpaceToDepth",
            "Tile",
        ),
        _selected,
    ),
}
