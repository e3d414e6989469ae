"""Branches that are decided before a model runs, inlined.

    If(c) {then: f, else: g}  →  f      c true, by constants and known sizes alone

Exporters write such an `If` for a squeeze of an axis whose size they did not know.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from rtc.compiler.core.operators import op_of
from rtc.compiler.core.tensors import tensor_types, typed, without_weights
from rtc.compiler.core.unit import OnnxModel, Unit
from rtc.passes.graph.folding import Folding
from rtc.passes.support.onnx_graph import is_constant, named

if TYPE_CHECKING:
    import onnx

_MAX_MB = 1.0  # of what a condition is computed from


def without_decided_branches(unit: Unit) -> Unit:
    """The unit with the branch that is taken in place of each `If` whose condition is known."""
    import onnx

    model = onnx.load_model_from_string(unit.onnx.proto)
    if not any(_is_branch(node) for node in model.graph.node):
        return unit
    typed(model)
    while _inline_decided(model):
        typed(model)
    made = OnnxModel(model.SerializeToString(deterministic=True))
    return named(Unit(made, unit.signature))  # two branches may have given a node the same name


def _inline_decided(model: onnx.ModelProto) -> bool:
    """Put each branch that is surely taken in place of its `If`; whether there was one."""
    import onnx

    branching = [node for node in model.graph.node if _is_branch(node)]
    taken = _decided(model, {node.input[0] for node in branching}) if branching else {}
    if not taken:
        return False
    nodes: list[onnx.NodeProto] = []
    for index, node in enumerate(model.graph.node):
        if not _is_branch(node) or node.input[0] not in taken:
            nodes.append(node)
            continue
        side = "then_branch" if taken[node.input[0]] else "else_branch"
        branch = next(attribute.g for attribute in node.attribute if attribute.name == side)
        prefix = f"{node.name or node.op_type}/{index}/"
        nodes += _inlined(branch, node, prefix)
        model.graph.initializer.extend(_renamed_constants(branch, prefix))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return True


def _is_branch(node: onnx.NodeProto) -> bool:
    return op_of(node) == "If"


def _decided(model: onnx.ModelProto, conditions: set[str]) -> dict[str, bool]:
    """The conditions whose value is known whatever goes into the model."""
    import onnx
    import onnx_graphsurgeon as gs
    from onnx_graphsurgeon.logger import G_LOGGER

    part = _computing(model, conditions)
    for name in sorted(conditions):
        part.graph.node.append(onnx.helper.make_node("Identity", [name], [f"{name}/read"], name))
        part.graph.output.append(onnx.ValueInfoProto(name=f"{name}/read"))
    with G_LOGGER.suppress():
        graph = gs.import_onnx(part)
    readers = {node.name: node for node in graph.nodes[-len(conditions) :]}
    Folding(graph, _MAX_MB).run()
    deciding = {name: reader.inputs[0] for name, reader in readers.items()}
    return {
        name: bool(tensor.values.reshape(-1)[0])
        for name, tensor in deciding.items()
        if is_constant(tensor) and tensor.values.size == 1
    }


def _computing(model: onnx.ModelProto, tensors: set[str]) -> onnx.ModelProto:
    """What computes some tensors of a typed model, and all whose sizes they hang on.

    What another `If` gives is an input, and so is a large constant.
    """
    import onnx

    part, types, needed = without_weights(model), tensor_types(model.graph), set(tensors)
    given, kept = {value.name for value in part.graph.input}, []
    for node in reversed(model.graph.node):
        if not needed.intersection(node.output):
            continue
        if _is_branch(node):
            given.update(node.output)
            continue
        kept.append(node)
        needed.update(node.input)
    graph = part.graph
    for field in (graph.node, graph.output, graph.input):
        del field[:]
    graph.node.extend(reversed(kept))
    constants = {tensor.name for tensor in graph.initializer}
    made = {name for node in kept for name in node.output}
    graph.value_info.extend(value for value in model.graph.value_info if value.name in made)
    graph.input.extend(
        onnx.helper.make_tensor_value_info(name, types[name].kind, types[name].shape)
        for name in sorted(given - constants - made)
        if name in types
    )
    return part


def _inlined(
    branch: onnx.GraphProto, node: onnx.NodeProto, prefix: str
) -> Iterator[onnx.NodeProto]:
    """A branch's nodes, which give the outputs of its `If`."""
    import onnx

    own = _own_names(branch)
    made = {name for each in branch.node for name in each.output if name}
    results: dict[str, str] = {}
    copies = []
    for result, given in zip(node.output, (name.name for name in branch.output), strict=True):
        if given in made and given not in results:
            results[given] = result
        else:
            copies.append((given, result))
    names = {name: prefix + name for name in own} | results
    for each in branch.node:
        yield _renamed(each, names)
    for given, result in copies:
        yield onnx.helper.make_node(
            "Identity", [names.get(given, given)], [result], prefix + result
        )


def _own_names(graph: onnx.GraphProto) -> set[str]:
    """Names that mean something in a graph alone, not in the one around it."""
    made = {name for node in graph.node for name in node.output if name}
    return made | {value.name for value in (*graph.initializer, *graph.input)}


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """A copy of a node with other names for tensors, in the graphs within it as well."""
    import onnx

    copy: onnx.NodeProto = onnx.NodeProto.FromString(node.SerializeToString())
    for field in (copy.input, copy.output):
        field[:] = _new(field, names)
    for attribute in copy.attribute:
        own = [attribute.g] if attribute.HasField("g") else []  # a write to it would make one
        for graph in (*own, *attribute.graphs):
            inner = {old: new for old, new in names.items() if old not in _own_names(graph)}
            nodes = [_renamed(each, inner) for each in graph.node]
            del graph.node[:]
            graph.node.extend(nodes)
            for output in graph.output:
                output.name = inner.get(output.name, output.name)
    return copy


def _new(old: Iterable[str], names: Mapping[str, str]) -> list[str]:
    return [names.get(name, name) for name in old]


def _renamed_constants(branch: onnx.GraphProto, prefix: str) -> Iterator[onnx.TensorProto]:
    import onnx

    for tensor in branch.initializer:
        copy = onnx.TensorProto.FromString(tensor.SerializeToString())
        copy.name = prefix + tensor.name
        yield copy
