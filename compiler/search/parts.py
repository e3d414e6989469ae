"""The parts of a network that a precision is chosen for, and what a kernel's time is the time of.

A part is a node that computes: a layer with weights, the Add of a residual group, a pool, a sum. An
activation and whatever only moves values belong to the part before them: a tensor is known by its
carrier, the tensor that the part itself writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from rtc.compiler.core.operators import WEIGHTED, op_of
from rtc.compiler.core.target import BuiltLayer
from rtc.compiler.core.unit import Unit
from rtc.passes.quantise.precision_policy import computing
from rtc.passes.support.layers import FUSED, commutes, producer
from rtc.passes.support.onnx_graph import carrying, is_constant, read

if TYPE_CHECKING:
    import onnx

CONVERTS = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast"})
_HALVES = frozenset({10, 16})  # TensorProto.FLOAT16, BFLOAT16


@dataclass(frozen=True)
class Network:
    """The float graph, as parts and the tensors between them.

    Attributes:
        parts: names of the nodes that a precision is chosen for, in graph order, with their op.
        reads: carriers of what each part reads.
        writes: the carrier that each part writes.
        owners: the part whose kernel, or whose neighbour, each node is; every node but constants'.
        carriers: by tensor name.
        elements: of each carrier, per sample.
    """

    parts: Mapping[str, str]
    reads: Mapping[str, tuple[str, ...]]
    writes: Mapping[str, str]
    owners: Mapping[str, str]
    carriers: Mapping[str, str]
    elements: Mapping[str, int]


def network(model: Unit) -> Network:
    """The parts of a float ONNX model.

    Raises:
        ModelError: a graph that no pass here looks into.
    """
    graph = read(model).cleanup()
    carriers: dict[str, str] = {tensor.name: tensor.name for tensor in graph.inputs}
    owners: dict[str, str] = {}
    parts: dict[str, str] = {}
    reads: dict[str, tuple[str, ...]] = {}
    elements = {tensor.name: _per_sample(tensor.shape) for tensor in graph.inputs}
    computed, carried = frozenset(computing(graph)), carrying(graph)
    for node in graph.nodes:
        if node.name not in carried:
            owners[node.name] = ""
            continue
        sources = [tensor for tensor in node.inputs if tensor.name and not is_constant(tensor)]
        passes_on = commutes(node) or op_of(node) in FUSED or node.name not in computed
        if passes_on and sources and sources[0].name in carriers:
            carrier = carriers[sources[0].name]
            carriers |= {tensor.name: carrier for tensor in node.outputs}
            maker = producer(sources[0])
            owners[node.name] = owners.get(maker.name, "") if maker is not None else ""
            continue
        parts[node.name] = op_of(node)
        owners[node.name] = node.name
        reads[node.name] = tuple(
            dict.fromkeys(carriers.get(source.name, source.name) for source in sources)
        )
        for tensor in node.outputs:
            carriers[tensor.name] = node.outputs[0].name
        elements[node.outputs[0].name] = _per_sample(node.outputs[0].shape)
    writes = {node.name: node.outputs[0].name for node in graph.nodes if node.name in parts}
    return Network(parts, reads, writes, owners, carriers, elements)


def _per_sample(shape: Iterable[int | str | None] | None) -> int:
    return prod(size for size in list(shape or ())[1:] if isinstance(size, int))


@dataclass(frozen=True)
class Shares:
    """Microseconds of an engine's kernels, by what they serve.

    Attributes:
        parts: by part; what runs inside another part's kernel takes nothing itself. One is missing
            where no time is known of any kernel that it is in.
        conversions: by carrier, then by format.
        other: of what belongs to none.
    """

    parts: Mapping[str, float]
    conversions: Mapping[str, Mapping[str, float]]
    other: float

    @property
    def total(self) -> float:
        """Of all kernels that a time is known of."""
        converting = sum(sum(times.values()) for times in self.conversions.values())
        return sum(self.parts.values()) + converting + self.other

    def adding_up_to(self, total: float) -> Shares:
        """The same proportions of another whole; as they are, where nothing is known."""
        factor = total / self.total if self.total else 1.0
        return Shares(
            {name: factor * time for name, time in self.parts.items()},
            {
                carrier: {form: factor * time for form, time in times.items()}
                for carrier, times in self.conversions.items()
            },
            factor * self.other,
        )


def attribute(
    where: Network,
    graph: onnx.ModelProto,
    layers: Iterable[BuiltLayer],
    times_us: Iterable[float | None],
) -> Shares:
    """What each part and each conversion of an engine takes.

    Args:
        where: the float network.
        graph: the engine's graph, with its Q, DQ and Cast nodes.
        layers: as built, each with the engine's nodes that it carries.
        times_us: of each layer; None where it is not known.
    """
    converted = _conversions(where, graph)
    parts: dict[str, float] = {}
    conversions: dict[str, dict[str, float]] = {}
    other = 0.0
    untold: set[str] = set()
    for layer, known in zip(layers, times_us, strict=True):
        time = known or 0.0
        untold |= set() if known is not None else set(layer.onnx_nodes)
        mine = [name for name in layer.onnx_nodes if name in where.parts]
        mine.sort(key=lambda name: where.parts[name] not in WEIGHTED)
        riding = [owner for name in layer.onnx_nodes if (owner := where.owners.get(name))]
        edges = [converted[name] for name in layer.onnx_nodes if name in converted]
        for name in mine:
            parts.setdefault(name, 0.0)
        for carrier, form in edges:
            conversions.setdefault(carrier, {}).setdefault(form, 0.0)
        if mine or riding:
            owner = (mine or riding)[0]
            parts[owner] = parts.get(owner, 0.0) + time
        elif edges:
            carrier, form = edges[0]
            conversions[carrier][form] += time
        else:
            other += time
    silent = {name for name, time in parts.items() if time == 0.0} & untold
    return Shares({n: time for n, time in parts.items() if n not in silent}, conversions, other)


def _conversions(where: Network, graph: onnx.ModelProto) -> dict[str, tuple[str, str]]:
    """The carrier and the format that each Q, DQ and Cast of an engine's graph converts to.

    A tensor and all that is converted from it hold one value, and one of them has the name that the
    float graph knows it by: the last, where an output of the graph is converted.
    """
    converting = [node for node in graph.graph.node if op_of(node) in CONVERTS]
    origins: dict[str, str] = {}  # the tensor that each was converted from in the end
    for node in converting:
        origins[node.output[0]] = origins.get(node.input[0], node.input[0])
    carriers: dict[str, str] = {}
    for name, origin in origins.items():
        known = where.carriers.get(origin) or where.carriers.get(name)
        if known is not None:
            carriers.setdefault(origin, known)
    return {
        node.name: (carriers[origin], _format(node))
        for node in converting
        if (origin := origins[node.output[0]]) in carriers
    }


def _format(node: onnx.NodeProto) -> str:
    if op_of(node) == "QuantizeLinear":
        return "int8"
    to = next((each.i for each in node.attribute if each.name == "to"), 0)
    return "half" if to in _HALVES else "fp32"
