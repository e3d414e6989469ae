"""What a layer reads, as second moments: all that the error of its rounded weights hangs on.

For y = W x and rounded weights W', with H = E[x xᵀ]:

    E|y' - y|² = Σ_o (w'_o - w_o)ᵀ H (w'_o - w_o)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from rtc.calibration.oracle import Oracle
from rtc.calibration.prefix import prefix
from rtc.calibration.quantise import Parameters
from rtc.compiler.core.arrays import Array, Float64Array
from rtc.compiler.core.data import Split
from rtc.compiler.core.operators import op_of

if TYPE_CHECKING:
    import onnx


_BATCH = 16
_POSITIONS = 64  # of a convolution's output, drawn from each batch: neighbours say much the same
_PATCHES = "rtc/patches"


def input_gram(
    proto: bytes, layer: str, groups: int, activation: Parameters, split: Split, *, seed: int
) -> Float64Array:
    """H of the quantised inputs of a Conv, Gemm or MatMul: (groups, n, n), n = inputs × taps.

    Inputs are the float model's, each through the layer's own Q and DQ.
    """
    rng = np.random.default_rng(seed)
    model, conv = _with_patches(proto, layer, activation)
    total: Array | None = None
    count = 0
    with Oracle(prefix(model, [_PATCHES])) as oracle:
        for _, inputs in oracle.batches(split, _BATCH):
            values = oracle.run(inputs)[_PATCHES]
            columns = _patches(values, groups, rng) if conv else _rows(values)
            part = columns @ columns.transpose(0, 2, 1)
            total = part if total is None else total + part
            count += columns.shape[2]
    assert total is not None, "a split holds a batch at least"
    return (total / count).astype(np.float64)


def _rows(values: Array) -> Array:
    """Inputs (…, n) of a matrix product as columns (1, n, count)."""
    return values.reshape(1, -1, values.shape[-1]).transpose(0, 2, 1)


def _patches(values: Array, groups: int, rng: np.random.Generator) -> Array:
    """Patches (N, groups · n, …) of a convolution as columns (groups, n, count)."""
    flat = values.reshape(len(values), groups, values.shape[1] // groups, -1)
    chosen = rng.permutation(flat.shape[3])[:_POSITIONS]
    return flat[..., chosen].transpose(1, 2, 0, 3).reshape(groups, flat.shape[2], -1)


def _with_patches(proto: bytes, layer: str, activation: Parameters) -> tuple[bytes, bool]:
    """The model with what a layer multiplies its weights with, and whether it is a convolution.

    A convolution whose weights are the identity gives the patches, whatever its attributes are.
    """
    import onnx

    model = onnx.load_model_from_string(proto)
    graph, make = model.graph, onnx.helper.make_node
    node = next(node for node in graph.node if node.name == layer)
    pair = ["rtc/scale", "rtc/zero"]
    constants = {"rtc/scale": activation.scale, "rtc/zero": activation.zero_point}
    conv = op_of(node) == "Conv"
    restored = "rtc/x" if conv else _PATCHES
    graph.node.append(make("QuantizeLinear", [node.input[0], *pair], ["rtc/q"]))
    graph.node.append(make("DequantizeLinear", ["rtc/q", *pair], [restored]))
    if conv:
        weight = next(tensor for tensor in graph.initializer if tensor.name == node.input[1])
        constants["rtc/identity"] = _identity(node, tuple(weight.dims))
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        del copy.input[:], copy.output[:]
        copy.name = _PATCHES
        copy.input.extend([restored, "rtc/identity"])
        copy.output.append(_PATCHES)
        graph.node.append(copy)
    for name, values in constants.items():
        graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return bytes(model.SerializeToString()), conv


def _identity(node: onnx.NodeProto, shape: tuple[int, ...]) -> Array:
    """Convolution weights (groups · n, in, …) each of which takes one tap of one channel."""
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    taps = math.prod(shape[1:])
    one = np.eye(taps, dtype=np.float32).reshape(taps, *shape[1:])
    return np.concatenate([one] * groups)
