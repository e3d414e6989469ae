"""A small convnet over real digits, in float and as the Q/DQ graph that both CPU runtimes want."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, helper, numpy_helper

from rtc.calibration.oracle import Oracle
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.target import BuildRequest
from rtc.recipes.datasets.mnist import mnist5k
from rtc.targets.loader import profile

CONVNET = """
<ir_version: 10, opset_import: ["" : 21]>
convnet (float[N,1,28,28] x) => (float[N,10] logits) {
  [conv1] c1 = Conv <pads=[1,1,1,1]> (x, conv1_w, conv1_b)
  [relu1] r1 = Relu (c1)
  [pool1] p1 = MaxPool <kernel_shape=[2,2], strides=[2,2]> (r1)
  [conv2] c2 = Conv <pads=[1,1,1,1]> (p1, conv2_w, conv2_b)
  [relu2] r2 = Relu (c2)
  [gap] g = GlobalAveragePool (r2)
  [flat] f = Flatten (g)
  [fc] logits = Gemm <transB=1> (f, fc_w, fc_b)
}
"""
PADDED = """
<ir_version: 10, opset_import: ["" : 21]>
padded (float[N,1,4,4] x) => (float[N,1,3,3] y) <int64[8] pads = {0,0,1,1,0,0,1,1}> {
  padding = Pad (x, pads)
  y = MaxPool <kernel_shape=[2,2], strides=[2,2]> (padding)
}
"""
SHAPES = {"conv1": (16, 1, 3, 3), "conv2": (16, 16, 3, 3), "fc": (10, 16)}
ACTIVATIONS = ("x", "r1", "p1", "r2", "g", "f")


@pytest.fixture(scope="session")
def digits() -> Array:
    """Real digits, scaled to [0, 1]: float32 (64, 1, 28, 28)."""
    raw, _ = mnist5k().load()
    chosen = raw[:: len(raw) // 64][:64]
    return (chosen / 255).astype(np.float32).reshape(64, 1, 28, 28)


@pytest.fixture(scope="session")
def convnet() -> ModelProto:
    model = onnx.parser.parse_model(CONVNET)
    rng = np.random.default_rng(7)
    for name, shape in SHAPES.items():
        scale = 1 / np.sqrt(np.prod(shape[1:]))
        _weight(model, f"{name}_w", (rng.standard_normal(shape) * scale).astype(np.float32))
        _weight(model, f"{name}_b", (rng.standard_normal(shape[0]) * 0.1).astype(np.float32))
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture(scope="session")
def quantised(convnet: ModelProto, digits: Array) -> Callable[..., ModelProto]:
    """The convnet with Q/DQ pairs on the named activations, weights and biases."""
    scales = {name: float(np.ptp(seen)) / 255 for name, seen in _seen(convnet, digits).items()}

    def build(activations: Iterable[str] = ACTIVATIONS) -> ModelProto:
        model = ModelProto()
        model.CopyFrom(convnet)
        weights = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer}
        del model.graph.initializer[:]
        nodes = list(model.graph.node)
        del model.graph.node[:]
        chosen = {name: scales[name] for name in activations}
        _pair(model, "x", chosen)
        for node in nodes:
            if node.op_type in ("Conv", "Gemm"):
                _quantise_weights(model, node, weights, scales)
            node.input[0] += "_dq" if node.input[0] in chosen else ""
            model.graph.node.append(node)
            _pair(model, node.output[0], chosen)
        onnx.checker.check_model(model, full_check=True)
        return model

    return build


@pytest.fixture(scope="session")
def padded() -> ModelProto:
    """Zeros around the input, then a maximum: 0 at every border where all values are negative."""
    return onnx.parser.parse_model(PADDED)


@pytest.fixture(scope="session")
def request_64() -> BuildRequest:
    return BuildRequest(profile("cpu"), batches=(1, 64, 64), threads=1)


def _weight(model: ModelProto, name: str, value: Array) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))


def _seen(model: ModelProto, digits: Array) -> dict[str, Array]:
    """Every activation of the float model on the digits."""
    shown = ModelProto()
    shown.CopyFrom(model)
    inner = ACTIVATIONS[1:]
    shown.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in inner)
    with Oracle(shown.SerializeToString(), inner) as oracle:
        return {"x": digits, **oracle.run(digits)}


def _pair(model: ModelProto, tensor: str, scales: Mapping[str, float]) -> None:
    """Q and DQ after a tensor that has a scale; zero point 0: every activation here is ≥ 0."""
    if tensor not in scales:
        return
    _weight(model, f"{tensor}_s", np.float32(scales[tensor]))
    _weight(model, f"{tensor}_z", np.uint8(0))
    grid = [f"{tensor}_s", f"{tensor}_z"]
    for op, before, after in (("QuantizeLinear", "", "_q"), ("DequantizeLinear", "_q", "_dq")):
        inputs, output = [tensor + before, *grid], tensor + after
        model.graph.node.append(helper.make_node(op, inputs, [output], name=f"{tensor}/{op}"))


def _quantise_weights(
    model: ModelProto, node: NodeProto, weights: Mapping[str, Array], scales: Mapping[str, float]
) -> None:
    activation, weight, bias = node.input
    value = weights[weight]
    # 7 bits: two products then fit into 16 bits on any CPU.
    scale = (np.abs(value).reshape(len(value), -1).max(1) / 63).astype(np.float32)
    spread = scale.reshape(-1, *[1] * (value.ndim - 1))
    bias_scale = scale * np.float32(scales[activation])
    _dequantised(model, weight, np.round(value / spread).astype(np.int8), scale)
    _dequantised(model, bias, np.round(weights[bias] / bias_scale).astype(np.int32), bias_scale)
    node.input[1], node.input[2] = f"{weight}_dq", f"{bias}_dq"


def _dequantised(model: ModelProto, name: str, value: Array, scale: Array) -> None:
    _weight(model, name, value)
    _weight(model, f"{name}_s", scale)
    _weight(model, f"{name}_z", np.zeros(len(scale), value.dtype))
    inputs = [name, f"{name}_s", f"{name}_z"]
    model.graph.node.append(
        helper.make_node("DequantizeLinear", inputs, [f"{name}_dq"], name=f"{name}/DQ", axis=0)
    )
