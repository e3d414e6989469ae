"""`Constant` nodes as initialisers, whatever the form that their value is written in."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from rtc.compiler.core.operators import op_of

if TYPE_CHECKING:
    import onnx

_FORMS: dict[str, Any] = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
    "value_string": object,
    "value_strings": object,
}
_MOST_DENSE = 1 << 26  # elements of a sparse constant: a few numbers may stand for any size


def to_initialisers(graph: onnx.GraphProto) -> None:
    """Put an initialiser in place of each Constant node; one that is an output stays a node."""
    outputs = {value.name for value in graph.output}
    others = []
    for node in graph.node:
        constant = None if outputs.intersection(node.output) else _constant(node)
        if constant is None:
            others.append(node)
        else:
            graph.initializer.append(constant)
    if len(others) < len(graph.node):
        del graph.node[:]
        graph.node.extend(others)


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """What a Constant node gives; None for any other node, and for more than fits."""
    import onnx

    if op_of(node) != "Constant":
        return None
    constant = onnx.TensorProto()
    for attribute in node.attribute:  # there is one
        if attribute.name == "value":
            constant.CopyFrom(attribute.t)
        elif attribute.name in _FORMS:
            given = onnx.helper.get_attribute_value(attribute)
            made = np.array(given, _FORMS[attribute.name])
            constant.CopyFrom(onnx.numpy_helper.from_array(made))
        elif math.prod(attribute.sparse_tensor.dims) <= _MOST_DENSE:
            constant.CopyFrom(_dense(attribute.sparse_tensor))
        else:
            return None
    constant.name = node.output[0]
    return constant


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    """A sparse tensor written out. Its places are numbers in order, or one for each axis."""
    import onnx

    values = onnx.numpy_helper.to_array(sparse.values)
    places = onnx.numpy_helper.to_array(sparse.indices)
    made = np.zeros(tuple(sparse.dims), values.dtype)
    made[np.unravel_index(places, made.shape) if places.ndim == 1 else tuple(places.T)] = values
    return onnx.numpy_helper.from_array(made)
