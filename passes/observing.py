"""Which observer watches which tensor: one kind for all, and other kinds by layer.

A layer's kind is that of the activations it reads. What no layer reads (a network's last output)
takes the kind of the layer that computes it.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.naming import nearest
from rtc.compiler.core.operators import WEIGHTED
from rtc.compiler.core.passes import Observation
from rtc.passes.layers import JOINS, activations, origin, output_of

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
    nodes = [node for node in graph.nodes if node.op in WEIGHTED or node.op in JOINS]
    kinds = _kinds([node.name for node in nodes], by_layer)
    chosen: dict[str, str] = {}
    outputs: dict[str, str] = {}
    for node in nodes:
        for tensor in activations(node):
            source = origin(tensor)
            if source.dtype == np.float32:
                _choose(chosen, source.name, kinds.get(node.name))
        result = origin(output_of(graph, node))
        if result.dtype == np.float32:
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
    """The kind by layer name; a name beats a glob."""
    found: dict[str, str] = {}
    patterns: dict[str, str] = {}
    for pattern, kind in by_layer.items():
        matched = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if pattern not in names and not matched:
            raise RecipeError(
                "this pattern matches no layer",
                where=_WHERE,
                seen=repr(pattern),
                fix=nearest(pattern, names),
                id="unmatched-observer",
            )
        for name in matched if pattern not in names else ():
            other = patterns.setdefault(name, pattern)
            if by_layer[other] != kind and name not in by_layer:
                raise RecipeError(
                    f"two patterns ask for different observers of what {name} reads",
                    where=_WHERE,
                    seen=f"{other}: {by_layer[other]}, {pattern}: {kind}",
                    fix=f"name {name} itself, which beats patterns",
                    id="contradictory-observers",
                )
            found[name] = kind
    return found | {name: kind for name, kind in by_layer.items() if name in names}
