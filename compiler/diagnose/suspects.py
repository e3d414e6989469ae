"""The layers that may be at fault in a candidate, in the order in which they are looked at."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.operators import WEIGHTED, op_of
from rtc.compiler.core.precision import Precision, PrecisionPlan
from rtc.compiler.diagnose.session import Session

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


@dataclass(frozen=True)
class Suspect:
    """A layer that can be put back to float, and the joins that then leave INT8 with it, in order.

    `noise_db` is the signal-to-noise ratio of the noisiest layer that reads or makes its output.
    """

    layer: str
    joins: tuple[str, ...]
    noise_db: float


def put_back(session: Session) -> Precision:
    """What a culprit is pinned to: half where INT8 is at fault, float32 where half is.

    Float32 too where the runtime has no half type.
    """
    half = session.builder.writer.target.scheme.half
    return Precision.HALF if half and not session.plan.is_float else Precision.FP32


def suspects_of(session: Session) -> dict[str, Suspect]:
    """The layers with weights and the joins that may be put back, by name, the noisiest first.

    Raises:
        RecipeError: there is none.
    """
    from rtc.passes.support.layers import JOINS
    from rtc.passes.support.onnx_graph import read

    plan, scheme = session.plan, session.builder.writer.target.scheme
    reduced = Precision.HALF if plan.is_float else Precision.INT8
    graph = read(session.model).cleanup()
    on_offer = {
        node.name: node
        for node in graph.nodes
        if op_of(node) in WEIGHTED | JOINS and plan.precision_of(node.name) is reduced
    }
    if not on_offer or (plan.is_float and not scheme.half_in_graph):
        raise RecipeError(
            "there is no layer to put back",
            where=f"{session.backend.name} {plan.variant}",
            seen="one float type for all layers" if on_offer else "every layer in fp32",
            fix="name another candidate with --variant or --backend",
            id="nothing-to-put-back",
        )
    order = {name: place for place, name in enumerate(on_offer)}
    suspects = [
        Suspect(
            name,
            tuple(sorted(_joins(graph, node) & on_offer.keys(), key=order.__getitem__)),
            _noise(graph, node, plan),
        )
        for name, node in on_offer.items()
    ]
    suspects.sort(key=lambda each: (each.noise_db, on_offer[each.layer].op in WEIGHTED))
    return {each.layer: each for each in suspects}


def _noise(graph: gs.Graph, node: gs.Node, plan: PrecisionPlan) -> float:
    """Decibels of the noisiest of a layer and the readers of its output, by the plan.

    A join has no figure of its own: whoever reads the sum tells of its branches.
    """
    from rtc.passes.support.layers import JOINS

    direct = list(_readers(graph, node))
    beyond = [reader for join in direct if op_of(join) in JOINS for reader in _readers(graph, join)]
    known = (plan.layers[n.name].snr_db for n in (node, *direct, *beyond) if n.name in plan.layers)
    return min((snr for snr in known if snr is not None), default=math.inf)


def _joins(graph: gs.Graph, node: gs.Node) -> set[str]:
    """Every join that a layer's output reaches through joins alone."""
    from rtc.passes.support.layers import JOINS

    joins: set[str] = set()
    waiting = [node]
    while waiting:
        for reader in _readers(graph, waiting.pop()):
            if op_of(reader) in JOINS and reader.name not in joins:
                joins.add(reader.name)
                waiting.append(reader)
    return joins


def _readers(graph: gs.Graph, node: gs.Node) -> Iterator[gs.Node]:
    """The nodes that read a layer's output, after its activation and what only moves values."""
    from rtc.passes.support.layers import commutes, output_of

    for reader in output_of(graph, node).outputs:
        if commutes(reader):
            yield from _readers(graph, reader)
        else:
            yield reader
