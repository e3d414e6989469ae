"""`eliminate-identity`: nodes that pass their input on unchanged.

    Identity(x)                      →  x
    Dropout(x)                       →  x       not in training, mask not read
    Cast(x)                          →  x       to the type that x has
    Pad(x, zeros)                    →  x
    Concat(x)                        →  x
    Flatten(x), Reshape(x)           →  x       shape known and unchanged
    Transpose(x, 0 1 … n)            →  x
    Transpose(Transpose(x, p), q)    →  x       where q undoes p

`details`: `removed` (count by operator), `left` (reason by node, for those that look removable).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rtc.compiler.core.operators import op_of
from rtc.compiler.core.passes import Exact, Pass, PassContext, PassResult
from rtc.compiler.core.unit import Level, Unit
from rtc.passes.support.onnx_graph import (
    bypass,
    dtype_of,
    is_constant,
    is_output,
    read,
    value,
    write,
)

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


@dataclass(frozen=True)
class EliminateIdentity(Pass):
    """Remove nodes that do nothing."""

    name: ClassVar[str] = "eliminate-identity"
    takes: ClassVar[Level] = Level.ONNX
    gives: ClassVar[Level] = Level.ONNX

    @property
    def bound(self) -> Exact:
        return Exact(atol=0.0, rtol=0.0)

    def apply(self, unit: Unit, ctx: PassContext) -> PassResult:
        graph = read(unit)
        removed: Counter[str] = Counter()
        left = {}
        checks = _Checks(graph).by_op()
        for node in [node for node in graph.nodes if op_of(node) in checks]:
            reason = checks[op_of(node)](node) or bypass(graph, node)
            if reason:
                left[node.name] = reason
            else:
                removed[op_of(node)] += 1
        details = {"removed": dict(sorted(removed.items())), "left": left}
        if not removed:
            return PassResult(unit, False, "nothing to remove", details)
        summary = ", ".join(f"{count} {op}" for op, count in sorted(removed.items()))
        return PassResult(write(graph, unit), True, f"{summary} removed", details)


@dataclass(frozen=True)
class _Checks:
    """By operator: why a node must stay, or ""."""

    graph: gs.Graph

    def by_op(self) -> dict[str, Callable[[gs.Node], str]]:
        return {
            "Identity": self.identity,
            "Dropout": self.dropout,
            "Cast": self.cast,
            "Pad": self.pad,
            "Concat": self.concat,
            "Flatten": self.same_shape,
            "Reshape": self.same_shape,
            "Transpose": self.transpose,
        }

    def identity(self, node: gs.Node) -> str:
        return ""

    def dropout(self, node: gs.Node) -> str:
        training = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
        if training is not None and (not is_constant(training) or bool(training.values)):
            return "it may run in training mode"
        if self.graph.opset < 7 and not node.attrs.get("is_test", 0):
            return "it runs in training mode (is_test = 0)"
        mask = node.outputs[1] if len(node.outputs) > 1 else None
        if mask is not None and (mask.outputs or is_output(self.graph, mask)):
            return "its mask is read"
        return ""

    def cast(self, node: gs.Node) -> str:
        from onnx.helper import tensor_dtype_to_np_dtype

        source, target = dtype_of(node.inputs[0]), tensor_dtype_to_np_dtype(node.attrs["to"])
        if source is None:
            return "the type of its input is not known"
        return "" if source == target else f"it casts {source} to {target}"

    def pad(self, node: gs.Node) -> str:
        pads = value(node, 1) if self.graph.opset >= 11 else np.array(node.attrs.get("pads", [1]))
        if pads is None:
            return "its pads are not constant"
        return f"it pads by {pads.tolist()}" if pads.any() else ""

    def concat(self, node: gs.Node) -> str:
        return "" if len(node.inputs) == 1 else f"it joins {len(node.inputs)} tensors"

    def same_shape(self, node: gs.Node) -> str:
        before, after = node.inputs[0].shape, node.outputs[0].shape
        if before is None or after is None:
            return "a shape is not known"
        known = [size if isinstance(size, int) else None for size in before]
        if known != [size if isinstance(size, int) else None for size in after]:
            return f"it turns {list(before)} into {list(after)}"
        unknown = known.count(None)
        return "" if unknown <= 1 else f"{unknown} dimensions of {list(before)} are not known"

    def transpose(self, node: gs.Node) -> str:
        """Nothing moves, or what moved moves back: then the node reads what was there before."""
        axes = node.attrs.get("perm")
        if axes is None:
            return "it reverses the axes"
        if list(axes) == sorted(axes):
            return ""
        source = node.inputs[0]
        before = source.inputs[0] if source.inputs else None
        if before is None or op_of(before) != "Transpose" or "perm" not in before.attrs:
            return f"it moves the axes: {list(axes)}"
        undone = [before.attrs["perm"][axis] for axis in axes]
        if undone != sorted(undone):
            return f"with the Transpose before it the axes still move: {undone}"
        if is_output(self.graph, node.outputs[0]):
            return "its output is the model's"
        node.inputs[0] = before.inputs[0]
        return ""
