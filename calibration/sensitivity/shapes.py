"""Shapes of a model's tensors, the work of its layers, and which constants are worth sharing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from rtc.calibration.oracle import Oracle, with_outputs
from rtc.compiler.core.operators import op_of
from rtc.compiler.core.tensors import BATCH, Shape, known_shapes, types_at

if TYPE_CHECKING:
    import onnx

    from rtc.calibration.sensitivity.alternative import FloatGraph

_BATCH = 32
_BATCH_BYTES = 256 << 20
_LARGE = 1024  # elements from which a constant is fed to a session, not copied into it


def marked_shapes(model: onnx.ModelProto) -> dict[str, Shape]:
    """Shape by tensor of a typed model, `BATCH` for a free batch.

    What cannot be inferred is looked at as it runs; what cannot be told even so is absent.
    """
    shapes = known_shapes(types_at(model, BATCH))
    made = [name for node in model.graph.node for name in node.output]
    unknown = [name for name in made if name and name not in shapes]
    return shapes | (_seen_shapes(model, unknown) if unknown else {})


def _seen_shapes(model: onnx.ModelProto, tensors: list[str]) -> dict[str, Shape]:
    """Shapes as they are for batches of two and of three: a size that grows with it holds it."""
    dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    if not dims or not all(dims[1:]):
        return {}
    proto, few = with_outputs(model.SerializeToString(), tensors), dims[:1] if dims[0] else (2, 3)
    try:
        with Oracle(proto, tensors, threads=1) as oracle:
            runs = [oracle.run(np.zeros((count, *dims[1:]), np.float32)) for count in few]
    except Exception:  # noqa: BLE001 - the runtime's errors have no common public class
        return {}
    shapes = {}
    for name in tensors:
        sizes = list(zip(*(run[name].shape for run in runs), strict=True))
        if all(len(set(size)) == 1 or 3 * size[0] == 2 * size[-1] for size in sizes):
            shapes[name] = tuple(
                size[0] if len(set(size)) == 1 else size[0] // 2 * BATCH for size in sizes
            )
    return shapes


def per_sample(shape: Shape, mark: int) -> int:
    """Elements of a tensor for each sample of a batch of `mark`; all of one without the batch."""
    count = math.prod(shape)
    return count // mark if count % mark == 0 else count


def multiply_accumulates(base: FloatGraph) -> dict[str, int]:
    """Multiply-accumulates for one sample by node.

    Nodes that are no matrix products, or whose shapes nobody knows, are absent.
    """
    return {
        node.name: work
        for node in base.graph.node
        if op_of(node) in ("Conv", "ConvTranspose", "Gemm", "MatMul")
        and (work := _work(node, base.shapes, base.mark))
    }


def _work(node: onnx.NodeProto, known: Mapping[str, Shape], mark: int) -> int:
    if not known.keys() >= {*node.input[:2], node.output[0]}:
        return 0
    source, weight, result = known[node.input[0]], known[node.input[1]], known[node.output[0]]
    if op_of(node) == "Conv":
        return per_sample(result, mark) * math.prod(weight[1:])
    if op_of(node) == "ConvTranspose":
        return per_sample(source, mark) * math.prod(weight[1:])
    return per_sample(result, mark) * source[-1]


def is_large(tensor: onnx.TensorProto) -> bool:
    """Whether sessions share a constant; what operators may want to know early is small."""
    import onnx

    return tensor.data_type == onnx.TensorProto.FLOAT and math.prod(tensor.dims) > _LARGE


def batch_size(base: FloatGraph, tensors: Iterable[str]) -> int:
    """The batch that the model fixes, or how many samples' `tensors` fit in memory."""
    if base.batch:
        return base.batch
    known = (base.shapes[name] for name in tensors if name in base.shapes)
    each = sum(4 * per_sample(shape, base.mark) for shape in known)
    return max(1, min(_BATCH, _BATCH_BYTES // max(each, 1)))
