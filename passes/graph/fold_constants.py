"""`fold-constants`: what depends on constants and on known sizes alone is computed now.

    Constant                  →  an initialiser
    Op(c1, …, cn)             →  constant             c1 … cn constants, Op deterministic
    Shape(x), Gather(s), …    →  constant             every size that it is computed of known
    Reshape(x, [N, 8 · 7])    →  Reshape(x, [0, 56])  one size, or the batch alone, not known

Values come from unoptimised ONNX Runtime, node by node; sizes that are not known are followed by
name (`sizes`). A result larger than `max_mb` and than what it is computed from stays in the graph,
and is refused before it is computed: a few bytes of `ConstantOfShape` can ask for terabytes. Q and
DQ of weights stay: they carry the precision. `details`: `folded` (count), `left` (reason by node).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rtc.compiler.core.operators import op_of
from rtc.compiler.core.passes import Pass, PassContext, PassResult
from rtc.compiler.core.unit import Level, Unit
from rtc.passes.graph.folding import Folding
from rtc.passes.support.onnx_graph import read, write


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Compute what depends on constants alone.

    Attributes:
        max_mb: results that grow beyond this many megabytes stay in the graph.
    """

    name: ClassVar[str] = "fold-constants"
    takes: ClassVar[Level] = Level.ONNX
    gives: ClassVar[Level] = Level.ONNX

    max_mb: float = 16.0

    def apply(self, unit: Unit, ctx: PassContext) -> PassResult:
        graph = read(unit)
        folded = _constant_nodes(unit) - sum(op_of(node) == "Constant" for node in graph.nodes)
        folding = Folding(graph, self.max_mb)
        folding.run()
        folded += folding.folded
        details = {"folded": folded, "left": folding.left}
        if not folded:
            return PassResult(unit, False, "nothing to fold", details)
        summary = f"{folded} nodes folded"
        return PassResult(write(graph, unit), True, summary, details)


def _constant_nodes(unit: Unit) -> int:
    """How many a unit holds; to read it makes initialisers of them."""
    import onnx

    model = onnx.load_model_from_string(unit.onnx.proto)
    return sum(op_of(node) == "Constant" for node in model.graph.node)
