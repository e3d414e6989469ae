"""What INT8 needs of an x86 CPU: whether products are added in 16 bits, which saturate.

A graph whose weights leave room for that (`rtc.compiler.core.pairs`) runs everywhere. One that does
not computes garbage on a CPU without VNNI, so its engine is bound to CPUs that have it.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rtc.compiler.core import pairs
from rtc.compiler.core.data import Array

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

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
        node.output[0]: onnx.numpy_helper.to_array(constants[node.input[0]])
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }
    return tuple(
        node.name or node.output[0]
        for node, weight in _weighted(model, stored)
        if weight.dtype == np.int8 and pairs.largest(*_rows(node, weight)).max() > pairs.LIMIT
    )


def _weighted(model: ModelProto, stored: Mapping[str, Array]) -> Iterator[tuple[NodeProto, Array]]:
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in stored:
            yield node, stored[node.input[1]]


def _rows(node: NodeProto, weight: Array) -> tuple[Array, tuple[pairs.Indices, ...]]:
    """A layer's weights (out, n), and who is whose neighbour."""
    options: dict[str, Any] = {each.name: each.i for each in node.attribute}
    if node.op_type == "MatMul" or (node.op_type == "Gemm" and not options.get("transB", 0)):
        weight = weight.T
    rows = weight.reshape(len(weight), -1).astype(np.int64)
    depthwise = weight.shape[1] == 1 and len(weight) == options.get("group", 1) > 1
    return rows, () if depthwise else pairs.partners(weight.shape[1:])
