"""Which observer watches which tensor: one kind for all, and other kinds by layer.

A layer's kind is that of the activations it reads. What no layer reads (a network's last output)
takes the kind of the layer that computes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.operators import WEIGHTED, op_of
from rtc.compiler.core.passes import Observation
from rtc.passes.support.layers import JOINS, activations, origin, output_of
from rtc.passes.support.onnx_graph import carrying, has_a_range, reads_data_alone
from rtc.passes.support.patterns import by_name, matching

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

_WHERE = "precision.observers"


def observations(
    graph: gs.Graph, default: str, by_layer: Mapping[str, str]
) -> frozenset[Observation]:
    """Every tensor that some placement may quantise, each with the kind of its observer.

    Args:
        graph: the float graph.
        default: the kind where no pattern says another.
        by_layer: kinds by layer name or glob; a name beats a glob.

    Raises:
        RecipeError: a pattern that matches no layer, or two kinds for one layer or one tensor.
    """
    carried = carrying(graph)
    nodes = [
        node
        for node in graph.nodes
        if (node.name in carried and op_of(node) in WEIGHTED)
        or (op_of(node) in JOINS and reads_data_alone(node, carried))
    ]
    kinds = _kinds([node.name for node in nodes], by_layer)
    chosen: dict[str, str] = {}
    outputs: dict[str, str] = {}
    for node in nodes:
        for tensor in activations(node):
            source = origin(tensor)
            if has_a_range(source):
                _choose(chosen, source.name, kinds.get(node.name))
        result = origin(output_of(graph, node))
        if has_a_range(result):
            outputs[result.name] = kinds.get(node.name, "")
    return frozenset(
        Observation(name, kind or default) for name, kind in (outputs | chosen).items()
    )


def _choose(chosen: dict[str, str], tensor: str, kind: str | None) -> None:
    """Note the kind that a layer asks for of a tensor that it reads; "" where it asks for none."""
    before = chosen.setdefault(tensor, kind or "")
    if kind and before and before != kind:
        raise RecipeError(
            f"two layers that read one tensor ask for different observers of {tensor}",
            where=_WHERE,
            seen=f"{before} and {kind}",
            fix="give these layers the same observer",
            id="contradictory-observers",
        )
    chosen[tensor] = before or kind or ""


def _kinds(names: list[str], by_layer: Mapping[str, str]) -> dict[str, str]:
    """The kind by layer name."""

    def matches(pattern: str) -> list[str]:
        return matching(pattern, names, _WHERE, id="unmatched-observer")

    return by_name(by_layer, names, matches, _WHERE, id="contradictory-observers")
