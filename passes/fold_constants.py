"""`fold-constants`: what depends on constants alone is computed now.

    Op(c1, …, cn)  →  constant      c1 … cn constants, Op deterministic
    Shape(x)       →  constant      every dimension of x known

Values come from unoptimised ONNX Runtime, node by node. A result larger than `max_mb` and than what
it is computed from stays in the graph, and is refused before it is computed: a few bytes of
`ConstantOfShape` can ask for terabytes. Q and DQ of weights stay: they carry the precision.
`details`: `folded` (count), `left` (reason by node).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from rtc.calibration.oracle import evaluate
from rtc.compiler.core.data import Array
from rtc.compiler.core.errors import ModelError
from rtc.compiler.core.passes import Pass, PassContext, PassResult
from rtc.compiler.core.unit import Level, Unit
from rtc.passes.graph import is_constant, is_output, read, write

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

_KEPT = frozenset({"QuantizeLinear", "DequantizeLinear"})
_RANDOM = frozenset(
    {"Bernoulli", "Dropout", "Multinomial", "RandomNormalLike", "RandomUniformLike"}
)


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
        folded, left = 0, {}
        for node in list(graph.nodes):
            if not _is_candidate(node):
                continue
            reason = self._fold(graph, node)
            if reason:
                left[node.name] = reason
            else:
                folded += 1
        details = {"folded": folded, "left": left}
        if not folded:
            return PassResult(unit, False, "nothing to fold", details)
        return PassResult(write(graph, unit), True, f"{folded} nodes folded", details)

    def _fold(self, graph: gs.Graph, node: gs.Node) -> str:
        """Replace a node's outputs by constants; why not, or ""."""
        if any(is_output(graph, tensor) for tensor in node.outputs):
            return "its output is the model's"
        if node.op == "Shape" and not is_constant(node.inputs[0]):
            _replace(node, [_shape_values(node)])
            return ""
        model = _model_of(graph, node)
        reason = self._too_large(model, node)
        if reason:
            return reason
        try:
            values = evaluate(model.SerializeToString())
        except ModelError as error:
            return str(error)
        _replace(node, values)
        return ""

    def _too_large(self, model: onnx.ModelProto, node: gs.Node) -> str:
        sizes = [_bytes(output) for output in model.graph.output]
        if None in sizes:
            return "the size of its result is not known beforehand"
        total = sum(size for size in sizes if size is not None)
        given = sum(int(tensor.values.nbytes) for tensor in node.inputs if is_constant(tensor))
        if total <= max(self.max_mb * 1e6, given):
            return ""
        return f"its result of {total / 1e6:.0f} MB is more than {self.max_mb:g} MB"


def _is_candidate(node: gs.Node) -> bool:
    if node.op in _KEPT or node.op in _RANDOM or node.domain not in (None, "", "ai.onnx"):
        return False
    if node.op == "Shape" and _static(node.inputs[0].shape):
        return True
    given = [tensor for tensor in node.inputs if tensor.name]
    return all(is_constant(each) for each in given) and bool(given or node.op == "Constant")


def _static(shape: Any) -> bool:
    return shape is not None and all(isinstance(size, int) for size in shape)


def _shape_values(node: gs.Node) -> Array:
    start, end = node.attrs.get("start", 0), node.attrs.get("end")
    return np.array(node.inputs[0].shape[start:end], np.int64)


def _model_of(graph: gs.Graph, node: gs.Node) -> onnx.ModelProto:
    """A model of one node, its inputs as initialisers, its outputs with inferred shapes."""
    import onnx
    from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

    outputs = [onnx.helper.make_empty_tensor_value_info(tensor.name) for tensor in node.outputs]
    constants = {tensor.name: tensor for tensor in node.inputs if tensor.name}
    alone = onnx.helper.make_graph(
        [OnnxExporter.export_node(node)],
        "constant",
        [],
        outputs,
        [OnnxExporter.export_tensor_proto(tensor) for tensor in constants.values()],
    )
    opset = [onnx.helper.make_opsetid("", graph.opset)]
    model = onnx.helper.make_model(alone, opset_imports=opset, ir_version=graph.ir_version)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def _bytes(output: onnx.ValueInfoProto) -> int | None:
    """Bytes of a tensor; None where its type or a dimension is not known."""
    import onnx

    kind = output.type.tensor_type
    sizes = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim]
    known = kind.HasField("shape") and all(size >= 0 for size in sizes)
    if not known or kind.elem_type in (0, onnx.TensorProto.STRING):
        return None
    return math.prod(sizes) * onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize


def _replace(node: gs.Node, values: list[Array]) -> None:
    import onnx_graphsurgeon as gs

    for tensor, array in zip(list(node.outputs), values, strict=True):
        constant = gs.Constant(tensor.name, array)
        for reader in list(tensor.outputs):
            reader.inputs = [constant if each is tensor else each for each in reader.inputs]
    node.outputs.clear()
