"""Walks over everything that an ONNX model holds: its graph, what is nested in it, functions."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import (
        FunctionProto,
        GraphProto,
        ModelProto,
        NodeProto,
        SparseTensorProto,
        TensorProto,
    )

_IN_A_BYTE = {"UINT4": 2, "INT4": 2, "FLOAT4E2M1": 2, "UINT2": 4, "INT2": 4}
"""How many values of a type are packed into a byte."""


def bodies(model: ModelProto) -> Iterator[GraphProto | FunctionProto]:
    """The graph, every local function, and the graphs nested in either (branches, loop bodies)."""
    for body in (model.graph, *model.functions):
        yield from nested(body)


def nested(body: GraphProto | FunctionProto) -> Iterator[GraphProto | FunctionProto]:
    """A graph or function, and the graphs of its nodes' attributes."""
    yield body
    for node in body.node:
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                if graph.ByteSize():
                    yield from nested(graph)


def nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Every node, nested ones after the ones around them."""
    for body in bodies(model):
        yield from body.node


def sparse_tensors(model: ModelProto) -> Iterator[SparseTensorProto]:
    """Every constant that lists only its values that are not zero."""
    for body in bodies(model):
        yield from getattr(body, "sparse_initializer", ())
        for node in body.node:
            for attribute in node.attribute:
                if attribute.HasField("sparse_tensor"):
                    yield attribute.sparse_tensor
                yield from attribute.sparse_tensors


def named_tensors(model: ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """Every constant, by its name or that of the tensor which a node makes of it.

    Initialisers and attributes wherever they stand, and both parts of sparse ones.
    """
    for body in bodies(model):
        for tensor in getattr(body, "initializer", ()):
            yield tensor.name, tensor
        for node in body.node:
            for attribute in node.attribute:
                own = [attribute.t] if attribute.HasField("t") else []
                for tensor in (*own, *attribute.tensors):
                    yield next(iter(node.output), tensor.name), tensor
    for sparse in sparse_tensors(model):
        yield sparse.values.name, sparse.values
        yield sparse.values.name, sparse.indices


def tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every constant."""
    return (tensor for _, tensor in named_tensors(model))


def is_outside(tensor: TensorProto) -> bool:
    """Whether a tensor's values lie in another file."""
    import onnx

    return tensor.data_location == onnx.TensorProto.EXTERNAL


def byte_size(tensor: TensorProto) -> int:
    """Bytes of a tensor's values as they are stored in raw.

    Raises:
        ValueError: values without a size of their own (strings, an unknown type), or a negative
            dimension.
    """
    import onnx

    kind, count = onnx.TensorProto.DataType.Name(tensor.data_type), int(prod(tensor.dims))
    if kind in ("STRING", "UNDEFINED") or any(size < 0 for size in tensor.dims):
        raise ValueError(f"{kind.lower()} of {list(tensor.dims)} has no size in bytes")
    if kind in _IN_A_BYTE:
        return -(-count // _IN_A_BYTE[kind])
    return count * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
