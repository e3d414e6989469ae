"""What INT8 needs of an x86 CPU: whether products are added in 16 bits, which saturate.

A graph whose weights leave room for that (`rtc.compiler.core.pairs`) runs everywhere. One that does
not computes garbage on a CPU without VNNI, so its engine is bound to CPUs that have it.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rtc.compiler.core import pairs
from rtc.compiler.core.data import Array

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
KEY, WIDE = "integer_products", "32-bit"
"""The key and the value of `Built.binding` where an engine needs products added in 32 bits."""


@cache
def adds_in_16_bits() -> bool:
    """Whether uint8 × int8 products are added in 16 bits here: an x86 CPU without VNNI.

    True where an x86 CPU's features cannot be told.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    try:
        return "vnni" not in Path("/proc/cpuinfo").read_text()
    except OSError:
        return True


def has() -> frozenset[str]:
    """What this machine has for `KEY`."""
    return frozenset() if adds_in_16_bits() else frozenset({WIDE})


def overflowing(model: ModelProto) -> tuple[str, ...]:
    """Names of the layers whose INT8 weights may overflow where products are added in 16 bits."""
    import onnx

    constants = {each.name: each for each in model.graph.initializer}
    stored = {
        node.output[0]: constants[node.input[0]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }
    return tuple(
        node.name or node.output[0]
        for node in model.graph.node
        if node.op_type in _WEIGHTED
        and (tensor := stored.get(node.input[1])) is not None
        and tensor.data_type == onnx.TensorProto.INT8
        and _largest(node, onnx.numpy_helper.to_array(tensor)) > pairs.LIMIT
    )


def _largest(node: NodeProto, weight: Array) -> int:
    """The largest weight of a layer, or sum of neighbours; those of a vector are all neighbours."""
    options: dict[str, Any] = {each.name: each.i for each in node.attribute}
    groups = options.get("group", 1) or 1
    if weight.ndim < 2:
        weight = weight.reshape(1, -1)
    elif node.op_type == "ConvTranspose":  # (in, out / groups, *kernel)
        weight = np.swapaxes(weight, 0, 1)
    elif node.op_type == "MatMul" or (node.op_type == "Gemm" and not options.get("transB", 0)):
        weight = np.swapaxes(weight, -1, -2).reshape(-1, weight.shape[-2])  # each matrix's columns
    if node.op_type == "Conv" and weight.shape[1] == 1 and len(weight) == groups > 1:
        found: tuple[pairs.Indices, ...] = ()  # depthwise: a kernel adds no products
    else:
        found = pairs.partners(weight.shape[1:])
    rows = weight.reshape(len(weight), -1).astype(np.int64)
    return int(pairs.largest(rows, found).max(initial=0))
