"""Where Q/DQ pairs go, given a plan and a target's scheme.

Rules (NVIDIA's for explicit quantisation, and ONNX Runtime's where it differs):

1. Every activation that an INT8 node reads is quantised; one pair serves all its INT8 readers.
2. Operators that commute with quantisation have the pair on both sides, with one scale.
3. `quantise_outputs`: the output of an INT8 node, after the activation fused into it, is quantised
   for every reader: ONNX Runtime fuses nothing else.
4. Otherwise only the skip input of a residual Add is quantised, and only where both branches end
   in INT8: the runtime then fuses Add and activation into the convolution that ends the branch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rtc.compiler.core.operators import WEIGHTED
from rtc.compiler.core.precision import Precision, PrecisionPlan
from rtc.passes.graph import is_constant
from rtc.passes.layers import COMMUTES, FUSED, origin, output_of, producer

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


@dataclass(eq=False)
class Spot:
    """A tensor to quantise.

    Attributes:
        tensor: the tensor.
        range_of: name of the tensor whose observed range it takes.
        readers: nodes that read the quantised values; None for all, and the graph's output too.
    """

    tensor: Any
    range_of: str
    readers: list[gs.Node] | None = field(default_factory=list)


class Spots:
    """Spots by tensor name, in the order in which they were asked for."""

    def __init__(self) -> None:
        self.by_name: dict[str, Spot] = {}

    def add(self, tensor: Any, reader: gs.Node | None) -> None:
        """Quantise `tensor` for one reader, or for all of them."""
        spot = self.by_name.setdefault(tensor.name, Spot(tensor, origin(tensor).name))
        if reader is None:
            spot.readers = None
        elif spot.readers is not None and all(each is not reader for each in spot.readers):
            spot.readers.append(reader)

    def add_path(self, tensor: Any, reader: gs.Node) -> None:
        """Quantise `tensor` for a reader, and before each commuting operator that leads to it."""
        self.add(tensor, reader)
        maker = producer(tensor)
        while maker is not None and maker.op in COMMUTES:
            self.add(maker.inputs[0], maker)
            maker = producer(maker.inputs[0])


def placement(graph: gs.Graph, plan: PrecisionPlan, *, quantise_outputs: bool) -> list[Spot]:
    """Every tensor to quantise."""
    spots = Spots()
    for node in graph.nodes:
        if node.op in FUSED or plan.precision_of(node.name) is not Precision.INT8:
            continue
        if node.op not in COMMUTES:
            for tensor in activations(node):
                spots.add_path(tensor, node)
        if quantise_outputs:
            spots.add(output_of(graph, node), None)
    if not quantise_outputs:
        deep = _depths(graph)
        for node in graph.nodes:
            skip = _skip_branch(node, plan, deep)
            if skip is not None:
                spots.add_path(skip, node)
    return list(spots.by_name.values())


def activations(node: gs.Node) -> list[Any]:
    """What a node reads that is not a constant; a layer with weights reads its first input."""
    inputs = node.inputs[:1] if node.op in WEIGHTED else node.inputs
    return [tensor for tensor in inputs if tensor.name and not is_constant(tensor)]


def _skip_branch(node: gs.Node, plan: PrecisionPlan, deep: Mapping[str, int]) -> Any:
    """The input of a residual Add to quantise, or None.

    The branch whose convolution lies deeper (the longer path) is left for the runtime to fuse.
    """
    if node.op != "Add" or len(activations(node)) != 2:
        return None
    ends = [_last_layer(tensor, deep) for tensor in node.inputs]
    if any(end is None or plan.precision_of(end.name) is not Precision.INT8 for end in ends):
        return None
    direct = [each for each in node.inputs if each.inputs and each.inputs[0].op == "Conv"]
    if not direct:
        return None
    branch = max(direct, key=lambda tensor: deep[tensor.inputs[0].name])
    return next((each for each in node.inputs if each is not branch), None)


def _last_layer(tensor: Any, deep: Mapping[str, int]) -> gs.Node | None:
    """The layer that ends a branch, looking back through joins and activations."""
    maker = producer(tensor)
    while maker is not None and (maker.op in COMMUTES or maker.op in FUSED or maker.op == "Add"):
        makers = [each.inputs[0] for each in activations(maker) if each.inputs]
        maker = max(makers, key=lambda node: deep[node.name], default=None)
    return maker


def _depths(graph: gs.Graph) -> dict[str, int]:
    """Nodes on the longest path from a graph input to each node, itself counted."""
    deep: dict[str, int] = {}
    for node in graph.nodes:
        makers = [maker.name for tensor in node.inputs for maker in tensor.inputs]
        deep[node.name] = 1 + max((deep[maker] for maker in makers), default=0)
    return deep
