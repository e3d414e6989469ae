"""A residual block in float, half and INT8, built for an RTX 4060 Ti."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

from rtc.compiler.core.precision import Precision
from rtc.compiler.core.target import BuildRequest, Built, BuiltLayer
from rtc.targets.backends.tensorrt_rtx import TensorRTRTX
from rtc.targets.loader import profile

BACKEND = TensorRTRTX()
ADA = profile("rtx4060ti")
REQUEST = BuildRequest(ADA, (1, 8, 16))
# A residual block whose convolutions have quantised inputs and weights; the sum stays float.
BLOCK = """
<ir_version: 11, opset_import: ["" : 21]>
block (float[N,16,8,8] x) => (float[N,10] y) {
  [x_q] xq = QuantizeLinear (x, act_s, zero)
  [x_dq] xd = DequantizeLinear (xq, act_s, zero)
  [w1_dq] w1 = DequantizeLinear <axis=0> (w1_i, w1_s, w1_z)
  [conv1] c1 = Conv <pads=[1,1,1,1]> (xd, w1, b)
  [relu1] r1 = Relu (c1)
  [r1_q] r1q = QuantizeLinear (r1, act_s, zero)
  [r1_dq] r1d = DequantizeLinear (r1q, act_s, zero)
  [w2_dq] w2 = DequantizeLinear <axis=0> (w2_i, w2_s, w2_z)
  [conv2] c2 = Conv <pads=[1,1,1,1]> (r1d, w2, b)
  [add] sum = Add (c2, xd)
  [relu2] r2 = Relu (sum)
  [gap] p = GlobalAveragePool (r2)
  [flat] f = Flatten (p)
  [fc] y = Gemm <transB=1> (f, fc_w, fc_b)
}
"""
FLOAT_BLOCK = """
<ir_version: 11, opset_import: ["" : 21]>
block (float[N,16,8,8] x) => (float[N,10] y) {
  [conv1] c1 = Conv <pads=[1,1,1,1]> (x, w1, b)
  [relu1] r1 = Relu (c1)
  [conv2] c2 = Conv <pads=[1,1,1,1]> (r1, w2, b)
  [add] sum = Add (c2, x)
  [relu2] r2 = Relu (sum)
  [gap] p = GlobalAveragePool (r2)
  [flat] f = Flatten (p)
  [fc] y = Gemm <transB=1> (f, fc_w, fc_b)
}
"""


def block_model(text: str, **weights: np.ndarray) -> ModelProto:
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(values), name) for name, values in weights.items()
    )
    return model


def block_weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    shapes = {"w1": (16, 16, 3, 3), "w2": (16, 16, 3, 3), "fc_w": (10, 16), "fc_b": 10, "b": 16}
    return {n: (0.1 * rng.standard_normal(s)).astype(np.float32) for n, s in shapes.items()}


def float_block() -> ModelProto:
    return block_model(FLOAT_BLOCK, **block_weights())


def half_block() -> ModelProto:
    text = FLOAT_BLOCK.replace("float[", "float16[")
    return block_model(text, **{n: w.astype(np.float16) for n, w in block_weights().items()})


def quantised_block(*, per_channel: bool = False) -> ModelProto:
    weights = block_weights()
    extra: dict[str, np.ndarray] = {"act_s": np.float32(0.05), "zero": np.int8(0)}
    for name in ("w1", "w2"):
        values = weights.pop(name)
        axes = (1, 2, 3) if per_channel else None
        scale = np.abs(values).max(axis=axes, keepdims=True) / 127
        extra[f"{name}_i"] = np.round(values / scale).astype(np.int8)
        extra[f"{name}_s"] = scale.reshape(-1) if per_channel else scale.reshape(())
        extra[f"{name}_z"] = np.zeros(16 if per_channel else (), np.int8)
    text = BLOCK if per_channel else BLOCK.replace("<axis=0> ", "")
    return block_model(text, **weights, **extra)


def build_plan(model: ModelProto, request: BuildRequest = REQUEST) -> Built:
    return BACKEND.build(model.SerializeToString(), request)


def owner_of(built: Built, node: str) -> BuiltLayer:
    """The one layer that a node is in."""
    owners = [layer for layer in built.layers if node in layer.onnx_nodes]
    assert len(owners) == 1, owners
    return owners[0]


def precisions_of(built: Built, *nodes: str) -> list[Precision | None]:
    return [owner_of(built, node).precision for node in nodes]
