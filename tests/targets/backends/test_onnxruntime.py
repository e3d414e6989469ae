from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from check_pass import parse

from rtc.calibration.oracle import Oracle
from rtc.compiler.core.errors import ModelError
from rtc.compiler.core.precision import Precision
from rtc.compiler.core.target import BuildRequest
from rtc.targets.backends.onnxruntime import MISCOMPILES, OnnxRuntime
from rtc.targets.loader import profile

GELU = """
<ir_version: 10, opset_import: ["" : 21]>
net (float[N,4] x) => (float[N,4] y)
<float root2 = {1.4142135}, float one = {1.0}, float half = {0.5}> {
  [relu] r = Relu (x)
  [div] d = Div (r, root2)
  [erf] e = Erf (d)
  [add] a = Add (e, one)
  [mul] m = Mul (r, a)
  [scale] s = Mul (m, half)
  [softmax] y = Softmax (s)
}
"""

# Every product is 255 × 127: two of them do not fit into 16 bits.
LARGEST = """
<ir_version: 10, opset_import: ["" : 21]>
net (float[N,16] x) => (float[N,16] y)
<float one = {1.0}, float step = {4096.0}, uint8 zero = {0}, int8 none = {0}> {
  xq = QuantizeLinear (x, one, zero)
  xd = DequantizeLinear (xq, one, zero)
  wd = DequantizeLinear (w, one, none)
  [product] m = MatMul (xd, wd)
  mq = QuantizeLinear (m, step, zero)
  y = DequantizeLinear (mq, step, zero)
}
"""


def optimised_by_default(model, inputs):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": inputs})[0]


def test_the_disabled_optimiser_is_wrong_before_1_32(padded):
    # When rtc needs 1.32 or later, take its name out of MISCOMPILES.
    inputs = -np.ones((1, 1, 4, 4), np.float32)
    mended = tuple(map(int, ort.__version__.split(".")[:2])) >= (1, 32)
    assert optimised_by_default(padded, inputs).max() == (0 if mended else -1)
    assert MISCOMPILES == ("Pad_Fusion",)


KEPT_FLOAT = {
    "Conv": "c = Conv <group = 8, pads = [1, 1, 1, 1]> (xd, w, b)",
    "ConvTranspose": "c = ConvTranspose <group = 8> (xd, w, b)",
    "Gemm": "f = Flatten (xd) c = Gemm (f, w, b)",
    "MatMul": "f = Flatten (xd) m = MatMul (f, w) c = Add (m, b)",
}


@pytest.mark.parametrize("layer", KEPT_FLOAT)
def test_weights_that_the_graph_keeps_in_float_stay_in_float(layer: str) -> None:
    """Though Q/DQ pairs stand on both sides of them."""
    rng = np.random.default_rng(0)
    shape = (128, 8) if "Flatten" in KEPT_FLOAT[layer] else (8, 1, 3, 3)
    weights = rng.normal(size=shape).astype(np.float32)
    model = parse(
        f"""g (float[N,8,4,4] x) => (float[N,M] y)
        <float step = {{0.01}}, float wide = {{0.2}}, uint8 zero = {{128}}> {{
            xq = QuantizeLinear (x, step, zero) xd = DequantizeLinear (xq, step, zero)
            {KEPT_FLOAT[layer]}
            cq = QuantizeLinear (c, wide, zero) cd = DequantizeLinear (cq, wide, zero)
            y = Flatten (cd)
        }}""",
        w=weights,
        b=np.zeros(8, np.float32),
    ).onnx.proto
    samples = rng.normal(size=(2, 8, 4, 4)).astype(np.float32)
    request = BuildRequest(profile("cpu"), (1, 2, 2), threads=1)
    built = OnnxRuntime().build(model, request)
    assert Precision.FP32 in {each.precision for each in built.layers}
    assert Precision.INT8 not in {each.precision for each in built.layers}
    with OnnxRuntime().load(built.engine, request) as runner, Oracle(model) as oracle:
        (engine,) = runner.run({"x": samples}).values()
        np.testing.assert_allclose(engine, oracle.run(samples)["y"], atol=1e-4)


def test_a_bias_in_float_leaves_its_layer_in_int8() -> None:
    model = parse(
        """g (float[N,8,4,4] x) => (float[N,M] y)
        <float step = {0.01}, float wide = {0.2}, uint8 zero = {128}, float ws = {0.01},
        int8 wz = {0}> {
            xq = QuantizeLinear (x, step, zero) xd = DequantizeLinear (xq, step, zero)
            wd = DequantizeLinear (w, ws, wz) c = Conv (xd, wd, b)
            cq = QuantizeLinear (c, wide, zero) cd = DequantizeLinear (cq, wide, zero)
            y = Flatten (cd)
        }""",
        w=np.random.default_rng(0).integers(-60, 60, (8, 8, 3, 3)).astype(np.int8),
        b=np.ones(8, np.float32),
    ).onnx.proto
    built = OnnxRuntime().build(model, BuildRequest(profile("cpu"), (1, 2, 2), threads=1))
    assert "QLinearConv" in {each.kind for each in built.layers}


def test_a_convolution_without_q_on_its_output_is_seen_to_run_in_float(quantised, request_64):
    model = quantised(("x", "r1", "p1"))  # conv2 reads integers, and what it writes stays float
    layers = OnnxRuntime().build(model.SerializeToString(), request_64).layers
    owners = {node: layer for layer in layers for node in layer.onnx_nodes}
    assert owners["conv1"].precision is Precision.INT8
    assert owners["conv2"].precision is Precision.FP32
    assert owners["conv2"].onnx_nodes[-2:] == ("conv2", "relu2")


def test_a_pattern_fused_to_one_operator_keeps_all_of_its_nodes(request_64):
    graph = onnx.parser.parse_model(GELU).SerializeToString()
    layers = OnnxRuntime().build(graph, request_64).layers
    assert [(layer.kind, layer.onnx_nodes) for layer in layers] == [
        ("Relu", ("relu",)),
        ("Gelu", ("div", "erf", "add", "mul", "scale")),
        ("Softmax", ("softmax",)),
    ]


def test_the_largest_products_do_not_saturate(request_64):
    model = onnx.parser.parse_model(LARGEST)
    weights = np.full((16, 16), 127, np.int8)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    graph = model.SerializeToString()
    (layer,) = [
        layer
        for layer in OnnxRuntime().build(graph, request_64).layers
        if "product" in layer.onnx_nodes
    ]
    assert layer.precision is Precision.INT8
    with OnnxRuntime().load(graph, request_64) as runner:
        got = runner.run({"x": np.full((64, 16), 255, np.float32)})["y"]
    np.testing.assert_array_equal(got, np.round(16 * 255 * 127 / 4096) * 4096)


def test_a_batch_that_does_not_run_is_an_error_with_its_reason(request_64):
    four = np.ones((4, 8), np.float32)
    graph = parse("g (float[N,8] x) => (float[N,8] y) { y = Add (x, four) }", four=four).onnx.proto
    with OnnxRuntime().load(graph, request_64) as runner:
        for run in (runner.run, runner.bind):
            with pytest.raises(ModelError, match="does not run the model") as caught:
                run({"x": four[:3]})
            assert caught.value.id == "runtime-refuses"
