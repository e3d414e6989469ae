"""Constants that keep zero away from a divisor or a logarithm, where a half type holds them as 0.

    x / max(|x|, 1e-12)        √(v + 1e-12)        log(p + 1e-10)

Samples seldom show what happens without: the guarded value is computed here of zeros, once with the
constant as it is and once as the half type has it. If that ends in inf or NaN where the first does
not, all that handles the guarded value stays float, for as long as the half type cannot hold it. A
bias of 1e-9, which nothing divides by, is no guard.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rtc.calibration.oracle import evaluate
from rtc.compiler.core.data import Array
from rtc.passes.graph import dtype_of, is_constant, moves
from rtc.passes.half import LARGEST, half_dtype, is_lost, peak_of

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

Values = Mapping[str, Array]
"""What is known of tensors, by name; what is not is zero. One element along every axis."""

_FLOAT = np.dtype(np.float32)
_DEPTH = 12  # nodes from a constant to what it guards


def lost_constants(node: gs.Node, half: str) -> list[Any]:
    """The constants that a node reads and that are too small for a half type."""
    floats = [each for each in node.inputs if is_constant(each) and dtype_of(each) == _FLOAT]
    return [e for e in floats if peak_of(e.values) < LARGEST[half] and is_lost(e.values, half)]


def guarding(nodes: Mapping[str, gs.Node], opset: int, half: str) -> dict[str, str]:
    """Why nodes stay float for a guard to hold, by name.

    Args:
        nodes: those that compute floats, by name, in order.
        opset: of the graph.
        half: "fp16" or "bf16".
    """
    found: dict[str, str] = {}
    for name, node in nodes.items():
        lost = lost_constants(node, half)
        if lost and _Walk(nodes, opset, half).breaks(node, {}, {}):
            least = peak_of(lost[0].values)
            found[name] = f"its {least:.3g} guards against zero, and is lost in {half}"
            reason = f"it reads what {least:.3g} in {name} guards, which is lost in {half}"
            handling = _Walk(nodes, opset, half).handling(node, {})
            found |= dict.fromkeys(handling - found.keys(), reason)
    return found


@dataclass(frozen=True)
class _Walk:
    """From one constant on, through what reads it; each node is come to once."""

    nodes: Mapping[str, gs.Node]
    opset: int
    half: str
    seen: set[int] = field(default_factory=set)

    def breaks(self, node: gs.Node, wanted: Values, got: Values, depth: int = _DEPTH) -> bool:
        """Whether inf or NaN comes of `got` and not of `wanted`, here or further on."""
        if moves(node):
            pairs = [(wanted[node.inputs[0].name], got[node.inputs[0].name])]
        else:
            rounded = [self._rounded(each) for each in self._of(node, got, rounded=True)]
            pairs = list(zip(self._of(node, wanted), rounded, strict=False))
        for tensor, (right, left) in zip(node.outputs, pairs, strict=False):
            if np.isfinite(right).all() and not np.isfinite(left).all():
                return True
            if np.allclose(right, left, rtol=0.1, atol=0.0) or not depth:
                continue
            known = {**wanted, tensor.name: right}, {**got, tensor.name: left}
            if any(self.breaks(each, *known, depth - 1) for each in self._new(tensor)):
                return True
        return False

    def handling(self, node: gs.Node, known: Values, depth: int = _DEPTH) -> set[str]:
        """The nodes that read or give what a half type does not hold, from a node's readers on."""
        found: set[str] = set()
        made = [known[node.inputs[0].name]] if moves(node) else self._of(node, known)
        for tensor, values in zip(node.outputs, made, strict=False):
            if values.dtype != _FLOAT or not values.any() or not depth:
                continue
            if is_lost(values, self.half):
                found |= {node.name, *(each.name for each in tensor.outputs)} & self.nodes.keys()
            for reader in self._new(tensor):
                found |= self.handling(reader, {**known, tensor.name: values}, depth - 1)
        return found

    def _new(self, tensor: Any) -> Iterator[gs.Node]:
        for reader in tensor.outputs:
            if id(reader) not in self.seen:
                self.seen.add(id(reader))
                yield reader

    def _of(self, node: gs.Node, known: Values, *, rounded: bool = False) -> list[Array]:
        """What a node gives; empty where it cannot do with one element along every axis."""
        import onnx
        from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

        given = {each.name: self._given(each, known, rounded) for each in node.inputs if each.name}
        graph = onnx.helper.make_graph(
            [OnnxExporter.export_node(node)],
            "node",
            [],
            [onnx.helper.make_empty_tensor_value_info(e.name) for e in node.outputs if e.name],
            [onnx.numpy_helper.from_array(values, name) for name, values in given.items()],
        )
        opsets = [onnx.helper.make_opsetid("", self.opset)]
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
        try:
            return evaluate(model.SerializeToString())
        except Exception:  # noqa: BLE001 - ORT raises a dozen unrelated classes
            return []

    def _given(self, tensor: Any, known: Values, rounded: bool) -> Array:
        if is_constant(tensor):
            values = np.asarray(tensor.values)
            return self._rounded(values) if rounded else values
        return known.get(tensor.name, np.zeros((1,) * len(tensor.shape or ()), dtype_of(tensor)))

    def _rounded(self, values: Array) -> Array:
        if values.dtype != _FLOAT:
            return values
        with np.errstate(over="ignore"):
            return values.astype(half_dtype(self.half)).astype(np.float32)
