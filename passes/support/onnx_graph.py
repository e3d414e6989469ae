"""ONNX models as graphsurgeon graphs and back: the same bytes for the same graph.

A graph that `read` gives has what every pass may rely on: unique node names, no `Constant` nodes
(their values are initialisers), no control flow and no local functions, and of each tensor the type
and shape that it has, not those that the file states (rtc.compiler.core.tensors). `write` keeps
everything that graphsurgeon drops (metadata, documentation), sorts nodes stably and infers shapes
again.
"""

from __future__ import annotations

import gc
import heapq
from typing import TYPE_CHECKING, Any, TypeGuard

from rtc.compiler.core.arrays import Array
from rtc.compiler.core.errors import ModelError
from rtc.compiler.core.operators import op_of
from rtc.compiler.core.tensors import typed
from rtc.compiler.core.unit import OnnxModel, Unit
from rtc.passes.graph.constant_nodes import to_initialisers

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import onnx_graphsurgeon as gs

MOVES = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that only move their first input's values: they take its precision as it is."""

_HEAVY = 32 << 20
"""Bytes of a model before which graphs that are done with are freed. Their nodes and tensors refer
to each other, and Python's collector counts objects, not megabytes: a search on a ResNet-50 came to
8 GB of them."""


def moves(node: gs.Node) -> bool:
    """Whether a node only moves its first input's values: `MOVES`, and a Pad with zeros.

    Zero stands for itself in every precision and in every scheme of quantisation.
    """
    return op_of(node) in MOVES or _pads_with_zeros(node)


def _pads_with_zeros(node: gs.Node) -> bool:
    if op_of(node) != "Pad" or node.attrs.get("mode", "constant") != "constant":
        return False
    given = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
    if given is None:
        return not node.attrs.get("value", 0.0)
    filled = value(node, 2)
    return filled is not None and not filled.any()


def read(unit: Unit) -> gs.Graph:
    """The unit's graph, to be changed freely.

    Raises:
        ModelError: control flow or local functions, which no pass here looks into; a node that
            shapes cannot be inferred of.
    """
    import onnx
    import onnx_graphsurgeon as gs
    from onnx_graphsurgeon.logger import G_LOGGER

    if len(unit.onnx.proto) > _HEAVY:
        gc.collect()
    model = onnx.load_model_from_string(unit.onnx.proto)
    _refuse_nested(model)
    drop_default_inputs(model.graph)
    to_initialisers(model.graph)
    typed(model, trusting=True)
    with G_LOGGER.suppress():  # it prints to our standard output
        graph = gs.import_onnx(model)
    _name_nodes(graph)
    return graph


def write(graph: gs.Graph, unit: Unit) -> Unit:
    """A unit of `graph`, with the signature and metadata of the unit that it was read from."""
    import onnx
    import onnx_graphsurgeon as gs
    from onnx_graphsurgeon.logger import G_LOGGER

    graph.cleanup()
    _sort(graph)
    with G_LOGGER.suppress():
        model = gs.export_onnx(graph)
    before = onnx.load_model_from_string(unit.onnx.proto)
    model.metadata_props.extend(before.metadata_props)
    model.doc_string, model.domain = before.doc_string, before.domain
    model.model_version = before.model_version
    typed(model, trusting=True)
    return Unit(OnnxModel(model.SerializeToString(deterministic=True)), unit.signature)


def named(unit: Unit) -> Unit:
    """A model from outside: every node gets a name of its own, every tensor the type that it has.

    Layers are known by their node's name from here to the report. What the file states of its
    tensors is not believed: somebody may have freed the batch without a thought of it.

    Raises:
        ModelError: a node that shapes cannot be inferred of.
    """
    import onnx

    model = onnx.load_model_from_string(unit.onnx.proto)
    typed(model)
    taken = {each.name for each in (*model.graph.input, *model.graph.output)}
    for node in model.graph.node:
        node.name = _free_name(node.name or f"{node.op_type}_{node.output[0]}", taken)
    return Unit(OnnxModel(model.SerializeToString(deterministic=True)), unit.signature)


def is_constant(tensor: gs.Tensor) -> TypeGuard[gs.Constant]:
    """Whether a tensor is an initialiser."""
    import onnx_graphsurgeon as gs

    return isinstance(tensor, gs.Constant)


def value(node: gs.Node, index: int) -> Array | None:
    """The constant at an input of a node; None where it is missing or not a constant."""
    tensor = node.inputs[index] if index < len(node.inputs) else None
    return tensor.values if tensor is not None and is_constant(tensor) else None


def dtype_of(tensor: gs.Tensor) -> np.dtype[Any] | None:
    """A tensor's type as numpy's; None where it is not known. BF16 comes as ONNX's number."""
    import numpy as np
    from onnx.helper import tensor_dtype_to_np_dtype

    kind = tensor.dtype
    if kind is None:
        return None
    return tensor_dtype_to_np_dtype(kind) if isinstance(kind, int) else np.dtype(kind)


def carrying(graph: gs.Graph) -> frozenset[str]:
    """Names of the nodes that compute something of the values of the graph's inputs.

    The others compute with constants and with the sizes of tensors alone.
    """
    tensors = {id(tensor) for tensor in graph.inputs}
    names = set()
    for node in graph.nodes:
        reads = any(id(tensor) in tensors for tensor in node.inputs)
        if reads and op_of(node) not in ("Shape", "Size"):
            names.add(node.name)
            tensors |= {id(tensor) for tensor in node.outputs}
    return frozenset(names)


def reads_data_alone(node: gs.Node, carried: frozenset[str]) -> bool:
    """Whether all that a node reads is computed of samples: no constant, no mask made of sizes.

    What is not may well be infinite, and has no range to quantise.
    """
    makers = [tensor.inputs[0].name if tensor.inputs else "" for tensor in node.inputs]
    constant = any(is_constant(tensor) for tensor in node.inputs)
    return not constant and carried.issuperset(name for name in makers if name)


def has_a_range(tensor: gs.Tensor) -> bool:
    """Whether a tensor may be quantised: float32, and not one number for all samples."""
    import numpy as np

    return dtype_of(tensor) == np.float32 and tensor.shape != []


def is_output(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    """Whether a tensor is one of the graph's outputs."""
    return any(tensor is output for output in graph.outputs)


def bypass(graph: gs.Graph, node: gs.Node) -> str:
    """Remove a node that passes its first input on unchanged; why it must stay, or ""."""
    source, result = node.inputs[0], node.outputs[0]
    kept, dropped = (result, source) if is_output(graph, result) else (source, result)
    if dropped is source:
        if not source.inputs:
            return "it connects a graph input or a constant to a graph output"
        if is_output(graph, source):
            return "its input and its output are both graph outputs"
    node.inputs.clear()
    node.outputs.clear()
    for maker in list(dropped.inputs):
        maker.outputs = [kept if tensor is dropped else tensor for tensor in maker.outputs]
    for reader in list(dropped.outputs):
        reader.inputs = [kept if tensor is dropped else tensor for tensor in reader.inputs]
    return ""


class Names:
    """Names for new tensors and nodes of a graph: `names("a")` is "a", or a free "a_1", "a_2", …"""

    def __init__(self, graph: gs.Graph) -> None:
        self._taken = set(graph.tensors()) | {node.name for node in graph.nodes}

    def __call__(self, name: str) -> str:
        return _free_name(name, self._taken)


def _free_name(name: str, taken: set[str]) -> str:
    """The name, or one like it that is not taken; it is from now on."""
    free, count = name, 0
    while free in taken:
        count += 1
        free = f"{name}_{count}"
    taken.add(free)
    return free


def _refuse_nested(model: onnx.ModelProto) -> None:
    import onnx

    nested = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    for node in model.graph.node:
        if any(attribute.type in nested for attribute in node.attribute):
            raise ModelError(
                f"control flow ({node.op_type}) cannot be compiled for real time",
                where=node.name or node.op_type,
                fix="export the model with a fixed path through it",
                id="control-flow",
            )
    if model.functions:
        raise ModelError(
            "the model holds local functions",
            seen=", ".join(sorted(function.name for function in model.functions)),
            fix="inline them: onnx.inliner.inline_local_functions",
            id="local-functions",
        )


def drop_default_inputs(graph: onnx.GraphProto) -> None:
    """Before IR version 4 every initialiser was listed as an input too."""
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [each for each in graph.input if each.name not in constants]
    del graph.input[:]
    graph.input.extend(inputs)


def _name_nodes(graph: gs.Graph) -> None:
    """Nodes without a name are called after their operator and output; doubles get a number."""
    taken = {tensor.name for tensor in (*graph.inputs, *graph.outputs)}
    for node in graph.nodes:
        node.name = _free_name(node.name or f"{node.op}_{node.outputs[0].name}", taken)


def _sort(graph: gs.Graph) -> None:
    """Topological order that keeps the nodes' own order wherever it may (Kahn, with a heap).

    graphsurgeon's own sort recurses once per node of the longest path.
    """
    place = {id(node): index for index, node in enumerate(graph.nodes)}
    waits = [
        sum(id(maker) in place for tensor in node.inputs for maker in tensor.inputs)
        for node in graph.nodes
    ]
    ready = [index for index, count in enumerate(waits) if count == 0]
    heapq.heapify(ready)
    ordered = []
    while ready:
        node = graph.nodes[heapq.heappop(ready)]
        ordered.append(node)
        for tensor in node.outputs:
            for consumer in tensor.outputs:
                index = place[id(consumer)]
                waits[index] -= 1
                if waits[index] == 0:
                    heapq.heappush(ready, index)
    if len(ordered) < len(graph.nodes):
        raise ModelError("the graph has a cycle", id="cyclic-graph")
    graph.nodes = ordered
