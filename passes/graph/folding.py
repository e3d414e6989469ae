"""The folding of a graph: one walk in graph order, types and sizes found anew on the way."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from rtc.calibration.oracle import evaluate
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.errors import ModelError
from rtc.compiler.core.operators import is_onnx, op_of
from rtc.compiler.core.tensors import Shape, known_shapes, types_of
from rtc.passes.graph.sizes import (
    Element,
    KnownValues,
    Values,
    broadcast,
    known,
    over,
    product,
    size_of,
)
from rtc.passes.support.onnx_graph import Names, dtype_of, is_constant, is_output

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

_KEPT = frozenset({"QuantizeLinear", "DequantizeLinear"})
_RANDOM = frozenset(
    {"Bernoulli", "Dropout", "Multinomial", "RandomNormalLike", "RandomUniformLike"}
)
_MOST_DATA = 1024  # elements of a constant whose values may decide a shape


class Folding:
    """One walk over a graph.

    Attributes:
        folded: nodes that are constants now, and shapes of a Reshape that are.
        left: why others are none, by node.
    """

    def __init__(self, graph: gs.Graph, max_mb: float) -> None:
        self.graph, self.max_mb = graph, max_mb
        self.names, self.sizes = Names(graph), KnownValues()
        self.folded, self.left = 0, dict[str, str]()
        self._changed: set[int] = set()  # tensors of which more is known than was read

    def run(self) -> None:
        """Fold every node whose value is known, in the graph's order."""
        for node in list(self.graph.nodes):
            self._visit(node)

    def _visit(self, node: gs.Node) -> None:
        if op_of(node) == "Reshape":
            self._reshape(node)
        elif op_of(node) == "Expand":
            self._expand(node)
        elif op_of(node) == "ConstantOfShape":
            self._fill(node)
        elif any(id(tensor) in self._changed for tensor in node.inputs):
            self._infer(node)
        values = self.sizes.visit(node)
        if _reads_constants_alone(node):
            reason = self._compute(node)
        elif values is not None and known(values):
            kind = dtype_of(node.outputs[0]) or np.int64
            reason = self._replace(node, [values.astype(kind)])
        else:
            return
        if reason:
            self.left[node.name] = reason
        else:
            self.folded += 1

    def _compute(self, node: gs.Node) -> str:
        """Replace a node by what ONNX Runtime computes of its constants; why not, or ""."""
        model = _model_of(self.graph, node)
        reason = self._too_large(model, node)
        if reason:
            return reason
        try:
            return self._replace(node, evaluate(model.SerializeToString()))
        except ModelError as error:
            return str(error)

    def _too_large(self, model: onnx.ModelProto, node: gs.Node) -> str:
        types = types_of(model)
        shapes = known_shapes(types)
        names = [output.name for output in model.graph.output]
        sizes = [_bytes(types[name].kind, shapes[name]) for name in names if name in shapes]
        if None in sizes or len(sizes) < len(names):
            return "the size of its result is not known beforehand"
        total = sum(size for size in sizes if size is not None)
        given = sum(int(tensor.values.nbytes) for tensor in node.inputs if is_constant(tensor))
        if total <= max(self.max_mb * 1e6, given):
            return ""
        return f"its result of {total / 1e6:.0f} MB is more than {self.max_mb:g} MB"

    def _replace(self, node: gs.Node, values: list[Array]) -> str:
        """Constants in place of a node's outputs; why not, or ""."""
        import onnx_graphsurgeon as gs

        if any(is_output(self.graph, tensor) for tensor in node.outputs):
            return "its output is the model's"
        for tensor, array in zip(list(node.outputs), values, strict=True):
            constant = gs.Constant(tensor.name, array)
            for reader in list(tensor.outputs):
                reader.inputs = [constant if each is tensor else each for each in reader.inputs]
            self._changed.add(id(constant))
        node.outputs.clear()
        return ""

    def _reshape(self, node: gs.Node) -> None:
        """A computed target becomes constant where the number of elements decides the rest of it.

        A size that is not known is 0 (as it comes in) or -1 (what is left), of which one is
        allowed.
        """
        import onnx_graphsurgeon as gs

        wanted = self.sizes.of(node.inputs[1]) if len(node.inputs) > 1 else None
        if wanted is None or wanted.ndim != 1:
            return
        given = [size_of(dim) for dim in node.inputs[0].shape or ()]
        if not node.attrs.get("allowzero", 0):
            wanted = _copied(wanted, given)
        shape = _resolved(wanted, given)
        if not is_constant(node.inputs[1]):
            fixed = _fixed(shape, given)
            if fixed is not None:
                name = self.names(f"{node.inputs[1].name}/fixed")
                node.inputs[1] = gs.Constant(name, fixed)
                node.attrs.pop("allowzero", None)
                self.folded += 1
        self._improve(node.outputs[0], [_dim(dim) for dim in shape])

    def _expand(self, node: gs.Node) -> None:
        wanted, given = self.sizes.of(node.inputs[1]), node.inputs[0].shape
        if wanted is None or given is None:
            return
        own: list[Element] = [*[1] * (len(wanted) - len(given)), *map(size_of, given)]
        to: list[Element] = [*[1] * (len(given) - len(wanted)), *wanted]
        shape = [_dim(broadcast(a, b)) for a, b in zip(own, to, strict=True)]
        self._improve(node.outputs[0], shape)

    def _fill(self, node: gs.Node) -> None:
        wanted = self.sizes.of(node.inputs[0])
        if wanted is not None:
            self._improve(node.outputs[0], [_dim(size) for size in wanted])

    def _infer(self, node: gs.Node) -> None:
        """Find the shapes of a node's outputs anew."""
        inferred = _inferred(self.graph, node)
        for tensor in node.outputs:
            if tensor.name in inferred:
                self._improve(tensor, inferred[tensor.name])

    def _improve(self, tensor: gs.Tensor, shape: list[int | str | None]) -> None:
        """Note what has been found of a tensor's shape; what was known of it stays."""
        before = tensor.shape
        if before is not None and len(before) == len(shape):
            shape = [old if new is None else new for old, new in zip(before, shape, strict=True)]
        if before != shape:
            tensor.shape = shape
            self._changed.add(id(tensor))


def _reads_constants_alone(node: gs.Node) -> bool:
    if op_of(node) in _KEPT | _RANDOM or not is_onnx(node):
        return False
    given = [tensor for tensor in node.inputs if tensor.name]
    return all(is_constant(name) for name in given) and bool(given or op_of(node) == "Constant")


def _elements(elements: Iterable[Element]) -> Values:
    return np.fromiter(elements, object)


def _dim(element: Element) -> int | str | None:
    """A dimension as graphsurgeon has it."""
    return element if element is None or isinstance(element, int) else str(element)


def _copied(wanted: Values, given: list[Element]) -> Values:
    """A Reshape's target with the sizes that its zeros stand for."""
    here = [given[axis] if axis < len(given) else None for axis in range(len(wanted))]
    return _elements(here[axis] if size == 0 else size for axis, size in enumerate(wanted))


def _resolved(wanted: Values, given: list[Element]) -> Values:
    """The shape that a Reshape gives: one size that is not known is what the others leave."""
    unknown = [axis for axis, size in enumerate(wanted) if size is None or size == -1]
    shape = _elements(None if axis in unknown else size for axis, size in enumerate(wanted))
    if len(unknown) == 1 and given:
        rest = product(size for axis, size in enumerate(wanted) if axis != unknown[0])
        shape[unknown[0]] = over(product(given), rest)
    return shape


def _fixed(shape: Values, given: list[Element]) -> Array | None:
    """A Reshape's target, for the shape that it gives; None where there is none in constants."""
    target = []
    for axis, size in enumerate(shape):
        same = axis < len(given) and size is not None and given[axis] == size
        target.append(size if isinstance(size, int) else 0 if same else -1)
    if target.count(-1) > 1 or 0 in shape:
        return None
    return np.array(target, np.int64)


def _inferred(graph: gs.Graph, node: gs.Node) -> dict[str, list[int | str | None]]:
    """Shapes of a node's outputs by name, from those of its inputs and the values of small ones.

    None where an input's type is not known: what another's operator gives, say.
    """
    import onnx
    from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

    given = [tensor for tensor in node.inputs if tensor.name]
    if any(tensor.dtype is None for tensor in given):
        return {}
    try:
        schema = onnx.defs.get_schema(node.op, graph.opset, node.domain or "")
        types = {e.name: OnnxExporter.export_value_info_proto(e, True).type for e in given}
        data = {
            tensor.name: OnnxExporter.export_tensor_proto(tensor)
            for tensor in given
            if is_constant(tensor) and math.prod(tensor.shape) <= _MOST_DATA
        }
        outputs = onnx.shape_inference.infer_node_outputs(
            schema,
            OnnxExporter.export_node(node),
            types,
            data,
            opset_imports=[onnx.helper.make_opsetid(node.domain or "", graph.opset)],
            ir_version=graph.ir_version,
        )
    except (onnx.defs.SchemaError, onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return {}
    return {
        name: [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in shape.dim]
        for name, kind in outputs.items()
        if kind.tensor_type.HasField("shape") and (shape := kind.tensor_type.shape) is not None
    }


def _model_of(graph: gs.Graph, node: gs.Node) -> onnx.ModelProto:
    """A model of one node, its inputs as initialisers."""
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
    return onnx.helper.make_model(alone, opset_imports=opset, ir_version=graph.ir_version)


def _bytes(kind: int, shape: Shape) -> int | None:
    """Bytes of a tensor; None where nothing tells them of its type."""
    import onnx

    if kind == onnx.TensorProto.STRING:
        return None
    return math.prod(shape) * onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize
