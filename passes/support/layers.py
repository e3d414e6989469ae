"""The layers of a graph that INT8 can be offered to: which, and what is known of each.

A layer is an ONNX node and is known by its name. Quantisable are `Conv`, `ConvTranspose`, `Gemm`
and `MatMul` with constant weights; activations that runtimes fuse into the layer before them
(`FUSED`) belong to that layer's output.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rtc.compiler.core.arrays import Array
from rtc.compiler.core.operators import WEIGHTED, op_of
from rtc.passes.support.onnx_graph import carrying, dtype_of, is_constant, is_output, moves, value

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from rtc.compiler.core.target import QuantScheme

FUSED = frozenset({"Relu", "Clip"})
JOINS = frozenset({"Add", "AveragePool", "Concat", "GlobalAveragePool"})
"""Operators that some runtimes compute in integers where all their inputs and outputs are."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A node with weights.

    Attributes:
        name, op: the node's.
        node: the graphsurgeon node; input 0 is the activation, input 1 the weight.
        axis: the axis of the weight that holds the output channels.
        channels: (in, out), over all groups.
        groups: of a convolution; 1 otherwise.
        obstacle: why it cannot be quantised; "" where it can.
        came_quantised: whether both of its operands are dequantised in the graph as it stands.
    """

    name: str
    op: str
    node: gs.Node
    axis: int
    channels: tuple[int, int]
    groups: int
    obstacle: str
    came_quantised: bool = False

    @property
    def channel_axis(self) -> int:
        """The axis of what the layer reads, and of what it makes, that holds the channels."""
        return 1 if self.op in ("Conv", "ConvTranspose") else -1

    @property
    def depthwise(self) -> bool:
        """Whether each input channel has weights of its own."""
        return self.groups > 1 and self.groups == self.channels[0]

    def paired(self, scheme: QuantScheme) -> bool:
        """Whether products of neighbours are added in 16 bits; a depthwise kernel adds none."""
        alone = self.depthwise and self.channels[0] == self.channels[1]
        return scheme.paired_products and not alone


def dead_channels(layer: Layer) -> int:
    """How many output channels of a layer have no weight but zeros: they carry a constant."""
    weight = value(layer.node, 1)
    if weight is None or weight.ndim < 2:
        return 0
    groups = layer.groups if layer.op == "ConvTranspose" else 1  # of which each has its own there
    channels = np.moveaxis(weight, layer.axis, 0).reshape(weight.shape[layer.axis], groups, -1)
    return int(np.count_nonzero(~channels.any(axis=2)))


def commutes(node: gs.Node) -> bool:
    """Whether a node gives the same with integers as with what these stand for: Q may cross it."""
    return op_of(node) == "MaxPool" or moves(node)


def weighted_layers(graph: gs.Graph) -> tuple[Layer, ...]:
    """Every node whose operator can have weights, in graph order."""
    carried = carrying(graph)
    return tuple(_layer(node, carried) for node in graph.nodes if op_of(node) in WEIGHTED)


def _layer(node: gs.Node, carried: AbstractSet[str]) -> Layer:
    weight = value(node, 1)
    obstacle = _obstacle(node, weight, carried)
    if weight is None or weight.ndim < 2:
        came = node.name in carried and all(map(_dequantised, node.inputs[:2]))
        obstacle = "it came quantised" if came else obstacle
        return Layer(node.name, op_of(node), node, 0, (0, 0), 1, obstacle, came)
    groups = int(node.attrs.get("group", 1))
    shape = weight.shape
    if op_of(node) == "Conv":
        axis, channels = 0, (shape[1] * groups, shape[0])
    elif op_of(node) == "ConvTranspose":
        axis, channels = 1, (shape[0], shape[1] * groups)
    elif op_of(node) == "Gemm" and node.attrs.get("transB", 0):
        axis, channels = 0, (shape[1], shape[0])
    else:
        axis, channels = weight.ndim - 1, (shape[-2], shape[-1])
    return Layer(node.name, op_of(node), node, axis, channels, groups, obstacle)


def _obstacle(node: gs.Node, weight: Array | None, carried: AbstractSet[str]) -> str:
    if weight is None:
        return "its weights are not constant"
    if is_constant(node.inputs[0]):
        return "its input is a constant"
    if node.name not in carried:
        return "its input is computed of sizes alone"
    if weight.dtype != np.float32:
        return f"its weights are {weight.dtype}, not float32"
    if op_of(node) in ("Gemm", "MatMul") and weight.ndim != 2:
        return f"its weights have {weight.ndim} dimensions, not 2"
    return _attribute_obstacle(node)


def _dequantised(tensor: gs.Tensor) -> bool:
    """Whether a tensor's values come out of 8-bit integers, perhaps moved since."""
    maker = producer(origin(tensor))
    if maker is None or op_of(maker) != "DequantizeLinear":
        return False
    return dtype_of(maker.inputs[0]) in (np.dtype(np.int8), np.dtype(np.uint8))


def _attribute_obstacle(node: gs.Node) -> str:
    scaled = any(node.attrs.get(factor, 1.0) != 1.0 for factor in ("alpha", "beta"))
    if op_of(node) == "Gemm" and (node.attrs.get("transA", 0) or scaled):
        return "a Gemm with transA, alpha or beta has no INT8 kernel"
    bias = value(node, 2) if op_of(node) == "Gemm" else None
    if bias is not None and bias.ndim == 2 and bias.shape[0] > 1:
        return "its bias differs by sample"
    if op_of(node) == "ConvTranspose" and node.attrs.get("group", 1) != 1:
        return "the weights of a grouped ConvTranspose have no one axis of output channels"
    return ""


def has_bias(node: gs.Node) -> bool:
    """Whether a Conv, ConvTranspose or Gemm adds something; an optional input may be unnamed."""
    return len(node.inputs) > 2 and bool(node.inputs[2].name)


def activations(node: gs.Node) -> list[gs.Tensor]:
    """What a node reads that is not a constant; a layer with weights reads its first input."""
    inputs = node.inputs[:1] if op_of(node) in WEIGHTED else node.inputs
    return [tensor for tensor in inputs if tensor.name and not is_constant(tensor)]


def producer(tensor: gs.Tensor) -> gs.Node | None:
    """The node that computes a tensor; None for graph inputs and constants."""
    return tensor.inputs[0] if tensor.inputs else None


def origin(tensor: gs.Tensor) -> gs.Tensor:
    """The tensor whose values these are, back across operators that commute with quantisation."""
    maker = producer(tensor)
    while maker is not None and commutes(maker):
        tensor = maker.inputs[0]
        maker = producer(tensor)
    return tensor


def output_of(graph: gs.Graph, node: gs.Node) -> gs.Tensor:
    """A node's output after the activation that is fused into it, if there is one."""
    tensor = node.outputs[0]
    readers = tensor.outputs
    if len(readers) == 1 and not is_output(graph, tensor) and op_of(readers[0]) in FUSED:
        return readers[0].outputs[0]
    return tensor


def is_last(layer: Layer) -> bool:
    """Whether no other layer with weights lies between a layer and the graph's outputs."""
    waiting, seen = list(layer.node.outputs), set()
    while waiting:
        tensor = waiting.pop()
        for node in tensor.outputs:
            if op_of(node) in WEIGHTED:
                return False
            if id(node) not in seen:
                seen.add(id(node))
                waiting.extend(node.outputs)
    return True


def is_first(graph: gs.Graph, layer: Layer) -> bool:
    """Whether a layer reads the graph's input."""
    source = origin(layer.node.inputs[0])
    return any(source is tensor for tensor in graph.inputs)
