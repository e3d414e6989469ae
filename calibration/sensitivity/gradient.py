"""Gradients of a model's output, as ONNX operators beside the model: no autograd library is needed.

Reverse mode (Griewank & Walther, Evaluating Derivatives, 2008, chapter 3): from a row vector v at
the output, the vector-Jacobian product vᵀ · ∂output/∂t for every tensor t asked for, in one walk
back over the graph. Matrix products cost what they cost forward, and weights get no gradient. What
each operator does to a gradient is in `rules`; what is computed of sizes, or has steps for a graph
(comparisons, ArgMax, Floor), passes none on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rtc.calibration.sensitivity.rules import RULES
from rtc.calibration.sensitivity.rules.writing import Writer, attributes, no_gradient
from rtc.compiler.core.operators import op_of

if TYPE_CHECKING:
    import onnx

_OPSET = 13  # the first with axes as inputs, which gradients are written with
_FLAT = frozenset(
    {
        "And",
        "ArgMax",
        "ArgMin",
        "Ceil",
        "Equal",
        "Floor",
        "Greater",
        "GreaterOrEqual",
        "Hardmax",
        "IsInf",
        "IsNaN",
        "Less",
        "LessOrEqual",
        "NonZero",
        "Not",
        "OneHot",
        "Or",
        "Round",
        "Shape",
        "Sign",
        "Size",
        "Xor",
    }
)


class Gradient(Writer):
    """Gradients of one model, written into an assembly."""

    def back(self, seed: str, wanted: Iterable[str]) -> dict[str, str]:
        """Gradients by tensor, from `seed` (n, classes) at the model's first output.

        Raises:
            ModelError: an operator on the way that has no gradient here.
        """
        wanted = set(wanted)
        nodes = self._between(wanted)
        parts: defaultdict[str, list[str]] = defaultdict(list, {self.base.logits: [seed]})
        self.found = {}
        for node in reversed(nodes):
            self.found |= {n: self._sum(parts[n]) for n in node.output if parts[n]}
            if not self.found.keys() & set(node.output):
                continue
            rule = RULES.get(op_of(node))
            if rule is None or self.opset < _OPSET:
                raise no_gradient(node, "" if rule is None else f"before opset {_OPSET}")
            g = self.found.get(node.output[0]) or self.zeros(node.output[0])
            for name, part in rule(self, node, g):
                if name in self.moving:
                    parts[name].append(part)
        rest = wanted - self.found.keys()
        return self.found | {
            name: self._sum(parts[name]) if parts[name] else self.zeros(name) for name in rest
        }

    def _between(self, wanted: set[str]) -> list[onnx.NodeProto]:
        """Nodes from the wanted tensors to the output."""
        self.moving, nodes = set(wanted), []
        for node in self.base.graph.node:
            if self.moving.intersection(node.input) and not self._is_flat(node):
                self.moving |= set(node.output)
                nodes.append(node)
        return nodes

    def _is_flat(self, node: onnx.NodeProto) -> bool:
        import onnx

        if op_of(node) == "Cast":
            kind = onnx.helper.tensor_dtype_to_np_dtype(attributes(node)["to"])
            return kind.kind in "iub"
        return op_of(node) in _FLAT

    def _sum(self, parts: list[str]) -> str:
        return parts[0] if len(parts) == 1 else self.to.node("Sum", parts)
