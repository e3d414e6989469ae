"""Residual Adds of a graph: where two branches meet (He et al., arXiv:1512.03385).

Of the two, the *branch* is the one that a convolution ends (of two such, the deeper: the longer
path), because a runtime can run the Add inside that convolution; the other is the *skip*.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rtc.compiler.core.operators import op_of
from rtc.passes.support.layers import FUSED, activations, commutes, producer
from rtc.passes.support.onnx_graph import carrying, has_a_range, reads_data_alone

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


@dataclass(frozen=True, eq=False)
class Residual:
    """An Add of two different float activations.

    Attributes:
        node: the Add.
        branch, skip: the tensors that it reads.
        ends: names of the nodes that end branch and skip, looking back through activations, other
            Adds and what only moves values; "" where that is a graph input.
    """

    node: gs.Node
    branch: gs.Tensor
    skip: gs.Tensor
    ends: tuple[str, str]

    @property
    def name(self) -> str:
        """The Add's."""
        return str(self.node.name)

    @property
    def fusable(self) -> bool:
        """Whether a convolution writes the branch, so that the Add can run inside it."""
        maker = producer(self.branch)
        return maker is not None and op_of(maker) == "Conv"


def residuals(graph: gs.Graph) -> tuple[Residual, ...]:
    """Every residual Add, in graph order."""
    carried = carrying(graph)
    depths = _depths(graph, carried)
    return tuple(_residual(node, depths) for node in graph.nodes if _is_residual(node, carried))


def _is_residual(node: gs.Node, carried: frozenset[str]) -> bool:
    if op_of(node) != "Add" or len({tensor.name for tensor in activations(node)}) != 2:
        return False
    return reads_data_alone(node, carried) and all(map(has_a_range, node.inputs))


def _residual(node: gs.Node, depths: Mapping[str, int]) -> Residual:
    def depth(tensor: gs.Tensor) -> tuple[bool, int]:
        maker = producer(tensor)
        return (maker is not None and op_of(maker) == "Conv", depths[maker.name] if maker else 0)

    first, second = node.inputs
    branch, skip = (first, second) if depth(first) >= depth(second) else (second, first)
    return Residual(node, branch, skip, (_end(branch, depths), _end(skip, depths)))


def _end(tensor: gs.Tensor, depths: Mapping[str, int]) -> str:
    maker = producer(tensor)
    while maker is not None and (commutes(maker) or op_of(maker) in FUSED or op_of(maker) == "Add"):
        makers = [
            n for activation in activations(maker) for n in activation.inputs if n.name in depths
        ]
        maker = max(makers, key=lambda node: depths[node.name], default=None)
    return maker.name if maker is not None else ""


def _depths(graph: gs.Graph, carried: frozenset[str]) -> dict[str, int]:
    """Nodes on the longest path from a graph input to each node of `carried`, itself counted."""
    deep: dict[str, int] = {}
    for node in (node for node in graph.nodes if node.name in carried):
        makers = [maker.name for tensor in node.inputs for maker in tensor.inputs]
        deep[node.name] = 1 + max((deep.get(maker, 0) for maker in makers), default=0)
    return deep
