"""`cast-precision`: the half layers of a plan, written into the graph.

    Layer(x, w)  →  Cast(Layer(Cast(x → half), w as half) → float)

and no casts between neighbours of one type. Graph inputs and outputs stay float32, and so do Q and
DQ with their scales: a runtime fuses the casts around them (TensorRT-RTX builds the same layers as
from DQ with `output_dtype`). INT8 layers have the plan's default type on their float side.

A runtime that takes one float type for the whole model (`QuantScheme.half_in_graph` is False) reads
it from the model's metadata: `rtc.half` is "bf16" or "fp16". `details`: `casts`, `half_nodes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from rtc.compiler.core.operators import HALF_KEY, op_of
from rtc.compiler.core.passes import (
    LEAVE_OUT,
    PIN_WIDER,
    PLANNED,
    Bound,
    Judged,
    Pass,
    PassContext,
    PassResult,
    Requirement,
    Sound,
)
from rtc.compiler.core.precision import Precision, PrecisionPlan
from rtc.compiler.core.unit import Level, OnnxModel, Unit
from rtc.passes.quantise.half import half_dtype, half_obstacle, retyped
from rtc.passes.support.onnx_graph import Names, carrying, dtype_of, is_constant, moves, read, write

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

_FLOAT = np.dtype(np.float32)
_ANY_INPUT = frozenset({"Cast", "DequantizeLinear", "Shape", "Size"})  # whatever type comes in


@dataclass(frozen=True)
class CastPrecision(Pass):
    """Write the half type of every layer planned in it."""

    name: ClassVar[str] = "cast-precision"
    takes: ClassVar[Level] = Level.ONNX
    gives: ClassVar[Level] = Level.ONNX
    requires: ClassVar[frozenset[Requirement]] = PLANNED

    @property
    def bound(self) -> Bound:
        return Sound()

    def apply(self, unit: Unit, ctx: PassContext) -> PassResult:
        """Write the types into nodes, or into metadata where the runtime takes one for all."""
        plan, scheme = ctx.planned(), ctx.where().scheme
        planned = [n for n, d in plan.layers.items() if d.precision is Precision.HALF]
        if scheme.half is None or not (planned or plan.default is Precision.HALF):
            return PassResult(unit, False, "no layer is planned in a half type")
        if not scheme.half_in_graph:
            return _in_metadata(unit, scheme.half, by_engine=ctx.where().runs)
        graph = read(unit)
        writer = _Writer(graph, plan, scheme.half)
        writer.run()
        if not writer.casts and not writer.half_nodes:
            return PassResult(unit, False, "the graph holds its half types already")
        details = {"casts": writer.casts, "half_nodes": writer.half_nodes}
        summary = f"{writer.half_nodes} nodes in {scheme.half}, {writer.casts} casts"
        return PassResult(write(graph, unit), True, summary, details, remedy=PIN_WIDER)


def _in_metadata(unit: Unit, half: str, *, by_engine: bool) -> PassResult:
    """A runtime that takes one type rounds where it likes: its engine shows what is left."""
    import onnx

    judged = Judged(None) if by_engine else None
    model = onnx.load_model_from_string(unit.onnx.proto)
    known = {entry.key: entry.value for entry in model.metadata_props}
    if known.get(HALF_KEY) == half:
        return PassResult(unit, False, f"the model asks for {half} already", judged=judged)
    onnx.helper.set_model_props(model, {**known, HALF_KEY: half})
    changed = Unit(OnnxModel(model.SerializeToString(deterministic=True)), unit.signature)
    summary = f"the float layers are to run in {half}"
    return PassResult(changed, True, summary, judged=judged, remedy=LEAVE_OUT)


class _Writer:
    """Goes through a graph once, in order, and changes types as the plan says."""

    def __init__(self, graph: gs.Graph, plan: PrecisionPlan, half: str) -> None:
        self.graph, self.plan, self.half = graph, plan, half
        self.dtype = half_dtype(half)
        self.carrying = carrying(graph)
        self.names = Names(graph)
        # By tensor and type, casts included.
        self.made: dict[tuple[int, np.dtype[Any]], gs.Tensor] = {}
        self.casts = self.half_nodes = 0

    def run(self) -> None:
        for node in list(self.graph.nodes):
            self._retype(node)
        for index, output in enumerate(self.graph.outputs):
            if dtype_of(output) == self.dtype:
                self._restore_output(index)

    def _retype(self, node: gs.Node) -> None:
        if op_of(node) in _ANY_INPUT:
            return
        places = retyped(node, self.graph.opset, self.half) if self._goes_half(node) else None
        if places is None:
            back = [i for i, tensor in enumerate(node.inputs) if dtype_of(tensor) == self.dtype]
            self._convert(node, back, _FLOAT)
            return
        inputs, outputs = places
        new = [node.outputs[i] for i in outputs if dtype_of(node.outputs[i]) != self.dtype]
        self._convert(node, inputs, self.dtype)
        for tensor in new:
            tensor.dtype = self.dtype
        self.half_nodes += bool(new) and not moves(node)

    def _goes_half(self, node: gs.Node) -> bool:
        if node.name not in self.carrying:
            return False
        if moves(node):
            return bool(dtype_of(node.inputs[0]) == self.dtype)
        precision = self.plan.precision_of(node.name)
        if precision is Precision.INT8:
            precision = self.plan.default
        if precision is not Precision.HALF:
            return False
        return not half_obstacle(node, self.graph.opset, self.half)

    def _convert(self, node: gs.Node, indices: list[int], dtype: np.dtype[Any]) -> None:
        for index in indices:
            tensor = node.inputs[index]
            if tensor.name and dtype_of(tensor) != dtype:
                node.inputs[index] = self._as(tensor, dtype)

    def _as(self, tensor: gs.Tensor, dtype: np.dtype[Any]) -> gs.Tensor:
        """A tensor in another type: constants are converted here, others by one Cast for all."""
        import onnx_graphsurgeon as gs

        made = self.made.get((id(tensor), dtype))
        if made is not None:
            return made
        suffix = self.half if dtype == self.dtype else "fp32"
        name = self.names(f"{tensor.name}/{suffix}")
        if is_constant(tensor):
            made = gs.Constant(name, tensor.values.astype(dtype))
        else:
            made = gs.Variable(name, dtype, tensor.shape)
            self._cast(tensor, made)
        self.made[id(tensor), dtype] = made
        return made

    def _restore_output(self, index: int) -> None:
        """Give a graph output its float32 back, under its own name."""
        import onnx_graphsurgeon as gs

        tensor = self.graph.outputs[index]
        name, tensor.name = tensor.name, self.names(f"{tensor.name}/{self.half}")
        restored = gs.Variable(name, _FLOAT, tensor.shape)
        self._cast(tensor, restored)
        self.graph.outputs[index] = restored

    def _cast(self, tensor: gs.Tensor, result: gs.Tensor) -> None:
        import onnx_graphsurgeon as gs
        from onnx.helper import np_dtype_to_tensor_dtype

        name = self.names(f"{result.name}/cast")
        to = np_dtype_to_tensor_dtype(np.dtype(result.dtype))
        self.graph.nodes.append(gs.Node("Cast", name, {"to": to}, [tensor], [result]))
        self.casts += 1
