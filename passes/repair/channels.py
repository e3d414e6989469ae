"""The weights and biases of a layer in one shape, whatever its operator."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from rtc.compiler.core.arrays import Float64Array
from rtc.passes.support.layers import Layer, has_bias
from rtc.passes.support.onnx_graph import Names, is_constant, value

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def weights_of(layer: Layer) -> Float64Array:
    """The weights of a layer without an obstacle as (groups, out, in, taps), channels per group."""
    weight = value(layer.node, 1)
    assert weight is not None, "a layer without constant weights has an obstacle"
    turned = np.swapaxes(weight, 0, 1) if layer.axis == 1 else weight
    out, inner = turned.shape[:2]
    shape = (layer.groups, out // layer.groups, inner, math.prod(turned.shape[2:]))
    return turned.reshape(shape).astype(np.float64)


def put_weights(names: Names, layer: Layer, weights: Float64Array) -> None:
    """Give a layer weights of its own, from the shape of `weights_of`; a shared tensor stays."""
    old = value(layer.node, 1)
    assert old is not None, "a layer without constant weights has an obstacle"
    turned = np.swapaxes(old, 0, 1) if layer.axis == 1 else old
    new = weights.reshape(turned.shape)
    new = np.swapaxes(new, 0, 1) if layer.axis == 1 else new
    _put(names, layer.node, 1, f"{layer.name}/weight", new)


def bias_obstacle(layer: Layer) -> str:
    """Why a layer's bias cannot be changed channel by channel; "" where it can."""
    if layer.op == "MatMul":
        return "a MatMul has no bias"
    if has_bias(layer.node) and value(layer.node, 2) is None:
        return "its bias is not constant"
    return ""


def bias_of(layer: Layer) -> Float64Array | None:
    """The bias, one value per output channel; None where there is none."""
    bias = value(layer.node, 2)
    if bias is None:
        return None
    return np.broadcast_to(bias.reshape(-1), (layer.channels[1],)).astype(np.float64)


def put_bias(names: Names, layer: Layer, bias: Float64Array) -> None:
    """Give a layer a bias of its own."""
    _put(names, layer.node, 2, f"{layer.name}/bias", bias)


def _put(names: Names, node: gs.Node, index: int, name: str, values: Float64Array) -> None:
    import onnx_graphsurgeon as gs

    constant = gs.Constant(names(name), np.ascontiguousarray(values, np.float32))
    old = node.inputs[index] if index < len(node.inputs) else None
    assert old is None or not old.name or is_constant(old), "checked before"
    node.inputs = [*node.inputs[:index], constant, *node.inputs[index + 1 :]]
