"""Gradients of operators that are a matrix along each axis of an image: resizing, and mean pools.

    y = R · x · Cᵀ  →  ∂x = Rᵀ · ∂y · C

The matrices are found by running the operator on an axis' unit vectors, so whatever it does at the
borders is in them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rtc.calibration.oracle import evaluate
from rtc.calibration.sensitivity.rules.writing import (
    Gradients,
    Rule,
    Writer,
    attributes,
    no_gradient,
)
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.errors import ModelError

if TYPE_CHECKING:
    import onnx

_PER_AXIS = ("kernel_shape", "strides", "dilations")


def _along_axes(to: Writer, node: onnx.NodeProto, g: str) -> Gradients:
    x = node.input[0]
    before, after = to.shape(node, x), to.shape(node, node.output[0])
    rank = len(before)
    if before[1] != after[1]:
        raise no_gradient(node, "across channels")
    for axis in range(2, rank):
        matrix = _matrix(to, node, axis, before[axis], after[axis])
        if matrix.shape[0] == matrix.shape[1] and (matrix == np.eye(len(matrix))).all():
            continue
        swap = list(range(rank))
        swap[axis], swap[-1] = swap[-1], swap[axis]
        turned = g if axis == rank - 1 else to.node("Transpose", g, perm=swap)
        gradient = to.node("MatMul", turned, to.constant(matrix))
        g = gradient if axis == rank - 1 else to.node("Transpose", gradient, perm=swap)
    yield x, g


def _matrix(to: Writer, node: onnx.NodeProto, axis: int, size: int, result: int) -> Array:
    """(result, size): what an axis becomes, whatever stands on the others."""
    rank = to.rank(node, node.input[0])
    shape = [size, *[1] * (rank - 1)]
    shape[axis] = size
    units = np.eye(size, dtype=np.float32).reshape(shape)
    pooling = node.op_type == "AveragePool"
    options, inputs = (
        (_pool_options(node, axis, rank), {})
        if pooling
        else _resize_options(to, node, axis, (size, result))
    )
    try:
        (evaluated,) = evaluate(_alone(to, node, {"x": units, **inputs}, options))
    except ModelError as error:
        raise no_gradient(node, "in this form") from error
    if evaluated.size != size * result:
        raise no_gradient(node, "in this form")
    matrix: Array = evaluated.reshape(size, result).T
    return matrix


def _pool_options(node: onnx.NodeProto, axis: int, rank: int) -> dict[str, Any]:
    """A pool along one axis alone."""
    options, spatial = dict(attributes(node)), rank - 2
    own = axis - 2
    for key in _PER_AXIS:
        if key in options:
            options[key] = [options[key][own] if i == own else 1 for i in range(spatial)]
    if "pads" in options:
        pads = options["pads"]
        options["pads"] = [p if i % spatial == own else 0 for i, p in enumerate(pads)]
    return options


def _resize_options(
    to: Writer, node: onnx.NodeProto, axis: int, sizes: tuple[int, int]
) -> tuple[dict[str, Any], dict[str, Array]]:
    """A Resize along one axis alone: by its scale where that is given, else to its size."""
    options, rank = dict(attributes(node)), to.rank(node, node.input[0])
    how = options.get("coordinate_transformation_mode", b"half_pixel")
    kept = options.get("keep_aspect_ratio_policy", b"stretch")
    if how == b"tf_crop_and_resize" or kept != b"stretch":
        raise no_gradient(node, f"by {(how if kept == b'stretch' else kept).decode()}")
    axes = [each % rank for each in options.pop("axes", range(rank))]
    scales = to.value(node, 1 if node.op_type == "Upsample" else 2)
    if scales is not None and scales.size:
        own = [float(scales[axes.index(axis)]) if i == axis else 1.0 for i in range(rank)]
        return options, {"scales": np.array(own, np.float32)}
    if len(node.input) < 4 or not node.input[3]:
        raise no_gradient(node, "by scales that are computed")
    shape = [sizes[0], *[1] * (rank - 1)]
    shape[axis] = sizes[1]
    return options, {"sizes": np.array(shape, np.int64)}


def _alone(
    to: Writer, node: onnx.NodeProto, inputs: dict[str, Array], options: dict[str, Any]
) -> bytes:
    """A model of the node alone, on constants."""
    import onnx

    order = ["x"]
    if node.op_type == "Resize":
        order += ["", "scales" if "scales" in inputs else ""]
        order += ["sizes"] if "sizes" in inputs else []
    elif node.op_type == "Upsample":
        order.append("scales")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(node.op_type, order, ["y"], **options)],
        "alone",
        [],
        [onnx.ValueInfoProto(name="y")],
        [onnx.numpy_helper.from_array(values, name) for name, values in inputs.items()],
    )
    opset = [onnx.helper.make_opsetid("", to.opset)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    return bytes(model.SerializeToString())


RULES: dict[str, Rule] = dict.fromkeys(("AveragePool", "Resize", "Upsample"), _along_axes)
