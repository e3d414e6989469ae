"""Shapes of a model's tensors, the work of its layers, and which constants are worth sharing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

    from rtc.calibration.sensitivity.alternative import FloatGraph

Shape = tuple[int, ...]

_BATCH = 32
_BATCH_BYTES = 256 << 20
_LARGE = 1024  # elements from which a constant is fed to a session, not copied into it


def shapes(graph: onnx.GraphProto) -> dict[str, Shape]:
    """Shape by tensor for one sample: symbolic dimensions, the batch above all, count as 1."""
    found = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for each in (*graph.input, *graph.value_info, *graph.output):
        dims = each.type.tensor_type.shape.dim
        found.setdefault(each.name, tuple(d.dim_value or 1 for d in dims))
    return found


def multiply_accumulates(graph: onnx.GraphProto) -> dict[str, int]:
    """Multiply-accumulates for one sample by node; nodes that are no matrix products are absent."""
    known = shapes(graph)
    return {
        node.name: _work(node, known)
        for node in graph.node
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")
    }


def _work(node: onnx.NodeProto, known: Mapping[str, Shape]) -> int:
    source, weight, result = known[node.input[0]], known[node.input[1]], known[node.output[0]]
    if node.op_type == "Conv":
        return math.prod(result[1:]) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(source[1:]) * math.prod(weight[1:])
    return math.prod(result[1:]) * source[-1]


def is_large(tensor: onnx.TensorProto) -> bool:
    """Whether sessions share a constant; what operators may want to know early is small."""
    import onnx

    return tensor.data_type == onnx.TensorProto.FLOAT and math.prod(tensor.dims) > _LARGE


def batch_size(base: FloatGraph, tensors: Iterable[str]) -> int:
    """The batch that the model fixes, or how many samples' float32 `tensors` fit in memory."""
    if base.batch:
        return base.batch
    known = shapes(base.graph)
    each = sum(4 * math.prod(known[name][1:]) for name in tensors)
    return max(1, min(_BATCH, _BATCH_BYTES // max(each, 1)))
