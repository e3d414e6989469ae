"""`insert-qdq`: the INT8 layers of a plan, written into the graph in the target's scheme.

    Layer(x, w, b)  →  Layer(DQ(Q(x)), DQ(w_int8), b)

The writing itself is `qdq`'s. `details`: `quantised_tensors`, `int8_layers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rtc.compiler.core.passes import (
    PIN_WIDER,
    PLANNED,
    Bound,
    Pass,
    PassContext,
    PassResult,
    Requirement,
    Sound,
)
from rtc.compiler.core.unit import Level, Unit
from rtc.passes.quantise.qdq import int8_layers, write_qdq
from rtc.passes.support.onnx_graph import read, write


@dataclass(frozen=True)
class InsertQdq(Pass):
    """Write QuantizeLinear and DequantizeLinear for every layer planned in INT8."""

    name: ClassVar[str] = "insert-qdq"
    takes: ClassVar[Level] = Level.ONNX
    gives: ClassVar[Level] = Level.ONNX
    requires: ClassVar[frozenset[Requirement]] = PLANNED

    @property
    def bound(self) -> Bound:
        return Sound()

    def apply(self, unit: Unit, ctx: PassContext) -> PassResult:
        """Quantise.

        Raises:
            ModelError: the model's opset is older than Q/DQ with an axis.
        """
        plan, graph = ctx.planned(), read(unit)
        layers = int8_layers(graph, plan)
        if not layers:
            return PassResult(unit, False, "no layer is planned in INT8")
        count = write_qdq(graph, layers, plan, ctx.statistics, ctx.where().scheme)
        details = {"quantised_tensors": count, "int8_layers": len(layers)}
        summary = f"{len(layers)} layers in INT8, {count} tensors quantised"
        return PassResult(write(graph, unit), True, summary, details, remedy=PIN_WIDER)
