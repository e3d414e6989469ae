from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from check_pass import parse
from nets import planned
from onnx import numpy_helper, parser
from openvino_graphs import needs_half, precisions, with_half

from rtc.calibration.oracle import Oracle
from rtc.compiler.building.engines import REQUEST, built_from_files, held
from rtc.compiler.core.errors import ModelError
from rtc.compiler.core.precision import Precision, Variant
from rtc.compiler.core.target import BuildRequest
from rtc.compiler.measure import fidelity
from rtc.compiler.process import sandbox
from rtc.passes.quantise.insert_qdq import InsertQdq
from rtc.targets.backends import openvino
from rtc.targets.backends.openvino import OpenVino
from rtc.targets.loader import profile

# INT8 matrix products without a bias, with a scale for each column of the weights.
PRODUCTS = """
<ir_version: 10, opset_import: ["" : 21]>
products (float[N,16] x) => (float[N,8] y) <float s = {0.25}, uint8 z = {0}> {
  xq = QuantizeLinear (x, s, z)
  xd = DequantizeLinear (xq, s, z)
  w1d = DequantizeLinear <axis=1> (w1, s1, z1)
  [first] m = MatMul (xd, w1d)
  r = Relu (m)
  rq = QuantizeLinear (r, s, z)
  rd = DequantizeLinear (rq, s, z)
  w2d = DequantizeLinear <axis=1> (w2, s2, z2)
  [second] y = MatMul (rd, w2d)
}
"""
# A pool refuses the batch of none that a dynamic model starts with (not where one thread runs all).
POOLED = """
<ir_version: 10, opset_import: ["" : 21]>
pooled (float[N,1,8,8] x) => (float[N,16] y)
<float s = {0.25}, uint8 z = {0}> {
  [pool] p = MaxPool <kernel_shape=[2,2], strides=[2,2]> (x)
  f = Flatten (p)
  q = QuantizeLinear (f, s, z)
  d = DequantizeLinear (q, s, z)
  w1d = DequantizeLinear <axis=1> (w1, s1, z1)
  [product] y = MatMul (d, w1d)
}
"""


@pytest.fixture(scope="module")
def products() -> bytes:
    model = parser.parse_model(PRODUCTS)
    rng = np.random.default_rng(1)
    for name, shape in {"w1": (16, 16), "w2": (16, 8)}.items():
        values = {
            name: rng.integers(-3, 4, shape, np.int8),
            f"s{name[1]}": rng.uniform(0.1, 0.3, shape[1]).astype(np.float32),
            f"z{name[1]}": np.zeros(shape[1], np.int8),
        }
        model.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in values.items())
    return model.SerializeToString()


@pytest.mark.parametrize("batch", [1, 2, 4, 6, 8, 9, 16, 64])
def test_integer_products_without_a_bias_are_right_at_every_batch(products, batch):
    x = np.random.default_rng(2).integers(0, 8, (batch, 16)).astype(np.float32)
    request = BuildRequest(profile("cpu"), (1, batch, batch), threads=1)
    with Oracle(products) as oracle, right(products, x, request) as runner:
        np.testing.assert_allclose(runner.run({"x": x})["y"], oracle.run(x)["y"], atol=1e-4)


def right(graph, samples, request):
    """A runner that computes every batch of the request as the graph says."""
    known = fidelity.of_inputs(graph, graph, samples[: fidelity.SAMPLES], request.profile)
    return held(OpenVino(), graph, request, known)[1]


def attention(heads, tokens, width):
    """Self-attention in float, (N, tokens, heads · width), and samples."""
    rng, size = np.random.default_rng(0), heads * width
    unit = parse(
        f"""attention (float[N,{tokens},{size}] x) => (float[N,{tokens},{size}] y)
        <int64[5] five = {{0, {tokens}, 3, {heads}, {width}}}, int64[3] three = {{0, 0, {size}}},
         int64[3] ones = {{1, 1, 1}}, int64[1] first = {{0}}> {{
            qkv = MatMul (x, w)
            r = Reshape (qkv, five)
            t = Transpose <perm = [2,0,3,1,4]> (r)
            q5, k5, v5 = Split <axis = 0> (t, ones)
            q = Squeeze (q5, first)
            k = Squeeze (k5, first)
            v = Squeeze (v5, first)
            kt = Transpose <perm = [0,1,3,2]> (k)
            score = MatMul (q, kt)
            a = Softmax <axis = -1> (score)
            o = MatMul (a, v)
            ot = Transpose <perm = [0,2,1,3]> (o)
            y = Reshape (ot, three)
        }}""",
        w=(rng.standard_normal((size, 3 * size)) / np.sqrt(size)).astype(np.float32),
    )
    return unit.onnx.proto, rng.standard_normal((8, tokens, size)).astype(np.float32)


@pytest.mark.parametrize("tokens", [4, 5])
def test_float_attention_is_computed_in_the_form_that_is_found_right(tokens):
    graph, x = attention(4, tokens, 24)
    request = BuildRequest(profile("cpu"), (1, 4, 4), threads=1)
    known = fidelity.of_inputs(graph, graph, x, request.profile)
    with Oracle(graph) as oracle, right(graph, x, request) as runner:
        for batch in (1, 3, 4):
            wanted = oracle.run(x[:batch])["y"]
            np.testing.assert_allclose(runner.run({"x": x[:batch]})["y"], wanted, atol=1e-4)
        form = fidelity.settle(runner, known, 4).form
    # With as many heads as tokens a fixed shape is wrong; elsewhere it is the faster one.
    assert form == ("any shape" if tokens == 4 else "fixed shape")


class Refusing:
    """A model that OpenVINO compiles and cannot run: some kernels are chosen at the first run."""

    def create_infer_request(self):
        return self

    get_compiled_model = create_infer_request

    def set_tensor(self, name, tensor):
        pass

    def infer(self):
        raise RuntimeError("Exception from request.cpp:1:\ncould not create a primitive")


def refuse(monkeypatch, *batches):
    """Let models compiled for these batches (None: for any) not run."""
    compiled = openvino._compile
    monkeypatch.setattr(
        openvino,
        "_compile",
        lambda graph, batch, config: (
            Refusing() if batch in batches else compiled(graph, batch, config)
        ),
    )


def test_a_form_that_does_not_run_is_not_taken(monkeypatch):
    refuse(monkeypatch, None)
    graph = parse("g (float[N,8] x) => (float[N,8] y) { y = Neg (x) }").onnx.proto
    x = np.random.default_rng(2).random((4, 8), np.float32)
    request = BuildRequest(profile("cpu"), (4, 4, 4), threads=1)
    known = fidelity.of_inputs(graph, graph, x, request.profile)
    with OpenVino().load(graph, request) as runner:
        for run in (runner.run, lambda feeds: (runner.bind(feeds), runner.enqueue())):
            with pytest.raises(ModelError, match="does not run") as caught:
                run({"x": x[:3]})
            assert caught.value.id == "runtime-refuses"
            assert caught.value.seen == "could not create a primitive"
        assert fidelity.settle(runner, known, 3).form == "filled up"
        np.testing.assert_array_equal(runner.run({"x": x[:3]})["y"], -x[:3])


def test_an_engine_is_built_in_the_form_that_runs(products, monkeypatch):
    request = BuildRequest(profile("cpu"), (1, 4, 4), threads=1)
    x = np.random.default_rng(2).integers(0, 8, (4, 16)).astype(np.float32)
    refuse(monkeypatch, 1, 4)
    with Oracle(products) as oracle, right(products, x, request) as runner:
        np.testing.assert_allclose(runner.run({"x": x})["y"], oracle.run(x)["y"], atol=1e-4)
    refuse(monkeypatch, None, 1, 4)
    with pytest.raises(ModelError, match="could not create a primitive"):
        OpenVino().build(products, request)


def test_the_form_that_was_right_is_what_an_engine_is_loaded_in(products, monkeypatch):
    refuse(monkeypatch, 1)  # on CPUs where the fixed shape is right
    x = np.random.default_rng(2).integers(0, 8, (1, 16)).astype(np.float32)
    request = BuildRequest(profile("cpu"), (1, 1, 1), threads=1)
    known = fidelity.of_inputs(products, products, x, request.profile)
    built, runner = held(OpenVino(), products, request, known)
    runner.close()
    assert built.forms == {1: "any shape"}
    again = replace(request, forms=built.forms)
    with Oracle(products) as oracle, OpenVino().load(built.engine, again) as runner:
        np.testing.assert_allclose(runner.run({"x": x})["y"], oracle.run(x)["y"], atol=1e-4)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_batch_filled_up_is_the_first_samples_of_a_larger_one(convnet, digits, batch):
    request = BuildRequest(profile("cpu"), (4, 8, 8), threads=1, forms={batch: "filled up"})
    feeds = {"x": digits[:batch]}
    graph = convnet.SerializeToString()
    with Oracle(graph) as oracle, OpenVino().load(graph, request) as runner:
        wanted = oracle.run(digits[:batch])["logits"]
        np.testing.assert_allclose(runner.run(feeds)["logits"], wanted, rtol=1e-4, atol=1e-5)
        runner.bind(feeds)
        runner.enqueue()
        np.testing.assert_allclose(runner.results()["logits"], wanted, rtol=1e-4, atol=1e-5)


def test_the_layers_of_a_model_that_stays_dynamic_are_listed(products):
    pooled = parser.parse_model(POOLED)
    pooled.graph.initializer.extend(
        tensor for tensor in onnx.load_from_string(products).graph.initializer if "1" in tensor.name
    )
    request = BuildRequest(profile("cpu"), (1, 1, 1), threads=2)
    layers = OpenVino().build(pooled.SerializeToString(), request).layers
    assert {"pool", "product"} <= {node for layer in layers for node in layer.onnx_nodes}


JOINED = """joined (float[N,8,12,12] x) => (float[N,16,12,12] y) {
  [left] a = Conv (x, w1)
  [gate] s = Sigmoid (a)
  [join] j = Concat <axis = 1> (a, s)
  [right] y = Conv (j, w2)
}
"""


@pytest.mark.parametrize("batch", [1, 4])
def test_a_signed_concat_before_an_int8_convolution_is_computed_as_it_is_written(batch):
    rng = np.random.default_rng(0)
    unit = parse(
        JOINED,
        w1=rng.standard_normal((16, 8, 1, 1)).astype(np.float32) / 3,
        w2=rng.standard_normal((16, 32, 1, 1)).astype(np.float32) / 6,
    )
    ctx = planned(unit, OpenVino().scheme(profile("cpu")), Variant.INT8)
    graph = InsertQdq().apply(unit, ctx).unit.onnx.proto
    x = ctx.data.calibration.inputs()[:batch]
    request = BuildRequest(profile("cpu"), (1, batch, batch), threads=1)
    with Oracle(graph) as oracle, OpenVino().load(graph, request) as runner:
        wanted, got = oracle.run(x)["y"], runner.run({"x": x})["y"]
    assert np.abs(got - wanted).max() < 0.02 * np.abs(wanted).max()  # 0.3 of it with int8 there


DENSE = """dense (float[N,8,6,6] x) => (float[N,16,6,6] y) {
  [left] a = Conv (x, w1)
  [right] b = Conv (x, w2)
  [join] j = Concat <axis = 1> (a, b)
  [norm] n = BatchNormalization (j, scale, shift, mean, variance)
  [act] r = Relu (n)
  [next] y = Conv (r, w3)
}
"""
MOVED = """moved (float[N,8,6,6] x) => (float[N,16,6,6] y) {
  [left] a = Conv (x, w1)
  [right] b = Conv (x, w2)
  [join] j = Concat <axis = 1> (a, b)
  [pad] p = Pad (j, none)
  [next] y = Conv (p, w3)
}
"""


@pytest.mark.parametrize("text", [DENSE, MOVED], ids=["scaled and shifted", "moved by nothing"])
def test_a_concat_whose_integers_come_to_another_q_is_built_and_right(text):
    rng = np.random.default_rng(0)
    constants = {
        "w1": rng.standard_normal((8, 8, 1, 1)).astype(np.float32) / 3,
        "w2": rng.standard_normal((8, 8, 1, 1)).astype(np.float32) / 3,
        "w3": rng.standard_normal((16, 16, 1, 1)).astype(np.float32) / 4,
    }
    if text is DENSE:
        constants |= {
            "scale": rng.uniform(0.5, 1, 16).astype(np.float32),
            "shift": rng.standard_normal(16).astype(np.float32),
            "mean": rng.standard_normal(16).astype(np.float32),
            "variance": rng.uniform(0.5, 1, 16).astype(np.float32),
        }
    else:
        constants["none"] = np.zeros(8, np.int64)
    unit = parse(text, **constants)
    ctx = planned(unit, OpenVino().scheme(profile("cpu")), Variant.INT8)
    graph = InsertQdq().apply(unit, ctx).unit.onnx.proto
    known = fidelity.probe(graph, unit.onnx.proto, ctx.data.calibration, profile("cpu"))
    request = BuildRequest(profile("cpu"), (1, 4, 4), threads=1)
    files = sandbox.run(  # a crash in the compiler is then an error here
        "rtc.compiler.building.engines:build_here",
        files={"graph.onnx": graph, fidelity.FILE: fidelity.packed(known)},
        args={"backend": "openvino", "request": REQUEST.dump_python(request, mode="json")},
        deadline_s=120.0,
        what="building",
    )
    layers = built_from_files(files).layers
    integer = {n for each in layers if each.precision is Precision.INT8 for n in each.onnx_nodes}
    assert {"left", "right", "next"} <= integer


def test_importing_it_opens_no_connection_and_prints_nothing(tmp_path):
    code = (
        "import sys, socket, time\n"
        "def refuse(*a, **k): open('connected', 'w').close(); raise OSError\n"
        "socket.create_connection = socket.getaddrinfo = refuse\n"
        "from rtc.targets.backends.openvino import openvino_quietly\n"
        "openvino_quietly().Core().available_devices\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "connected").exists()


SCALED = """scaled (float[N,8,16] x) => (float[N,8,16] y) {
  [first] a = MatMul (x, w1)
  [gelu] b = Sigmoid (a)
  [second] c = MatMul (b, w2)
  [scale] d = Mul (c, gamma)
  [sum] y = Add (x, d)
}"""


@pytest.mark.parametrize("half", [False, pytest.param(True, marks=needs_half)])
def test_a_product_that_takes_a_layer_scale_into_its_weights_is_accounted_for(half):
    rng = np.random.default_rng(0)
    unit = parse(
        SCALED,
        w1=rng.standard_normal((16, 32)).astype(np.float32),
        w2=rng.standard_normal((32, 16)).astype(np.float32),
        gamma=rng.uniform(0.1, 1, 16).astype(np.float32),
    )
    model = onnx.load_from_string(unit.onnx.proto)
    graph = with_half(model, "bf16") if half else model.SerializeToString()
    layers = OpenVino().build(graph, BuildRequest(profile("cpu"), (1, 4, 4), threads=1)).layers
    wanted = Precision.HALF if half else Precision.FP32
    found = precisions([layer for layer in layers if layer.precision is not None])
    assert {found[name] for name in ("first", "second", "scale")} == {wanted}
    # What moves their weights, in float, computes nothing.
    products = [layer for layer in layers if {"first", "second"} & set(layer.onnx_nodes)]
    assert {layer.precision for layer in products} == {wanted, None}


def test_a_float_product_of_int8_weights_has_float_activations() -> None:
    draw = np.random.default_rng(0)
    integers, scale = draw.integers(-127, 128, (256, 64)), draw.uniform(0.001, 0.01, 64)
    unit = parse(
        """g (float[N,256] x) => (float[N,64] y) {
            wd = DequantizeLinear <axis=1> (w, s, z)
            y = MatMul (x, wd)
        }""",
        w=integers.astype(np.int8),
        s=scale.astype(np.float32),
        z=np.zeros(64, np.int8),
    )
    x = draw.normal(size=(4, 256)).astype(np.float32)
    _, runner = OpenVino().build_and_load(unit.onnx.proto, BuildRequest(profile("cpu"), (1, 4, 4)))
    with runner:
        seen = runner.run({"x": x})["y"]
    wanted = x.astype(np.float64) @ (integers * scale)
    assert np.abs(seen - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_more_samples_than_an_engine_is_for_are_refused():
    graph = parse("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }").onnx.proto
    x = np.ones((3, 4), np.float32)
    request = BuildRequest(profile("cpu"), (1, 2, 2), threads=1)
    with OpenVino().load(graph, request) as runner:
        for run in (runner.run, runner.bind):
            with pytest.raises(ModelError, match="at most 2") as caught:
                run({"x": x})
            assert caught.value.id == "batch-out-of-range"
        np.testing.assert_array_equal(runner.run({"x": x[:2]})["y"], x[:2])
