"""`eliminate-dead-code`: nodes that reach no output, and initialisers that nothing reads.

    Op(x) that no output depends on  →  nothing

`details`: `nodes`, `initialisers` (counts removed).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rtc.compiler.core.passes import Exact, Pass, PassContext, PassResult
from rtc.compiler.core.unit import Level, Unit
from rtc.passes.support.onnx_graph import read, write


@dataclass(frozen=True)
class EliminateDeadCode(Pass):
    """Remove what no output depends on."""

    name: ClassVar[str] = "eliminate-dead-code"
    takes: ClassVar[Level] = Level.ONNX
    gives: ClassVar[Level] = Level.ONNX

    @property
    def bound(self) -> Exact:
        return Exact(atol=0.0, rtol=0.0)

    def apply(self, unit: Unit, ctx: PassContext) -> PassResult:
        import onnx

        before = onnx.load_model_from_string(unit.onnx.proto).graph
        graph = read(unit)
        read_names = {node.name for node in graph.nodes}
        graph.cleanup()
        lost = read_names - {node.name for node in graph.nodes}
        used = {name for node in graph.nodes for name in (t.name for t in node.inputs)}
        used |= {output.name for output in graph.outputs}
        unused = [tensor.name for tensor in before.initializer if tensor.name not in used]
        details = {"nodes": len(lost), "initialisers": len(unused)}
        if not lost and not unused:
            return PassResult(unit, False, "nothing is dead", details)
        summary = f"{len(lost)} nodes and {len(unused)} initialisers removed"
        return PassResult(write(graph, unit), True, summary, details)
