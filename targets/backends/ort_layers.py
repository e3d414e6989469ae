"""Which ONNX nodes ended in which node of the graph that ONNX Runtime optimised.

ONNX Runtime does not keep such a record. What it does keep is names: a fused node is called after
one of its parts (`/conv1/Conv_token_1`, `/fc/MatMul/MatMulAddFusion`), or after the tensor that the
part wrote (`relu1_nchwc`), and unless the layout changes its output keeps its name. So:

    a name or an output that is known         → that node is part of the layer
    `Conv` found under its Relu's name        → back through producers to the Conv
    every input kept its name                 → all nodes between the inputs and the output
    a node that is left                       → absorbed by the latest layer that feeds it
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rtc.compiler.core.precision import Precision
from rtc.compiler.core.target import BuiltLayer
from rtc.targets.backends.onnx_graph import NodeIndex

if TYPE_CHECKING:
    from onnx import ModelProto

_SUFFIX = re.compile(r"(_token_\d+|_nchwc|/duplicated)+$")
_INTEGERS = re.compile(r"QLinear|QGemm|NhwcMaxPool|MatMulInteger|ConvInteger|DynamicQuantize")
"""Kinds that compute on 8-bit integers. NhwcMaxPool exists for 8-bit tensors only."""

_CONVERTS = frozenset({"QuantizeLinear", "DequantizeLinear"})
"""Kinds that compute nothing; a Relu that Q's lower bound stands for is absorbed into one."""


def built_layers(original: ModelProto, optimised: ModelProto) -> tuple[BuiltLayer, ...]:
    """The nodes of the optimised graph, in execution order, with the ONNX nodes in each."""
    index = NodeIndex(tuple(original.graph.node))
    parts: list[set[int]] = [set() for _ in optimised.graph.node]
    for node, owner in _owners(index, optimised).items():
        parts[owner].add(node)
    return tuple(
        BuiltLayer(
            name=node.name,
            kind=node.op_type,
            onnx_nodes=index.names(mine),
            precision=_precision(node.op_type)
            if index.computes(mine) and node.op_type not in _CONVERTS
            else None,
        )
        for node, mine in zip(optimised.graph.node, parts, strict=True)
    )


def _owners(index: NodeIndex, optimised: ModelProto) -> dict[int, int]:
    """From an original node's index to its layer's."""
    layers = optimised.graph.node
    owners: dict[int, int] = {}
    for position, layer in enumerate(layers):
        for label in (layer.name, *layer.output):
            node = index.find(_SUFFIX.sub("", label))
            if node is not None:
                owners.setdefault(node, position)
    visible = {tensor for layer in layers for tensor in (*layer.input, *layer.output)}
    known = index.tensors | {tensor.name for tensor in optimised.graph.initializer}
    for node, position in sorted(owners.items(), reverse=True):
        layer = layers[position]
        inner: Iterable[int]
        if known.issuperset(filter(None, layer.input)):
            inner = _between(index, node, visible, owners)
        else:
            inner = _back_to_kind(index, node, layer.op_type, owners)
        for inner_index in inner:
            owners.setdefault(inner_index, position)
    for node in range(len(index.nodes)):
        feeding = [owners[producer] for producer in index.producers(node) if producer in owners]
        if feeding:
            owners.setdefault(node, max(feeding))
    return owners


def _between(index: NodeIndex, node: int, visible: set[str], owners: Mapping[int, int]) -> set[int]:
    """The nodes behind `node` up to tensors that the optimised graph still shows."""
    indices: set[int] = set()
    todo = [node]
    while todo:
        for tensor in index.nodes[todo.pop()].input:
            producer = None if tensor in visible else index.by_output.get(tensor)
            if producer is not None and producer not in owners and producer not in indices:
                indices.add(producer)
                todo.append(producer)
    return indices


def _back_to_kind(
    index: NodeIndex, node: int, kind: str, owners: Mapping[int, int]
) -> Sequence[int]:
    """The shortest way from `node` back to one of the layer's kind (`Conv` in `FusedConv`)."""
    if index.nodes[node].op_type in kind:
        return ()
    came_from: dict[int, int] = {}
    queue = deque([node])
    while queue:
        here = queue.popleft()
        for producer in index.producers(here):
            if producer in came_from:
                continue
            came_from[producer] = here
            if index.nodes[producer].op_type in kind:
                way = [producer]
                while (behind := came_from[way[-1]]) != node:
                    way.append(behind)
                return way
            if producer not in owners:
                queue.append(producer)
    return ()


def _precision(kind: str) -> Precision:
    """On a CPU a float kernel computes in FP32: FP16 operators stand between casts."""
    return Precision.INT8 if _INTEGERS.match(kind) else Precision.FP32
