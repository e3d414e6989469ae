"""What both CPU backends owe, with the real runtimes on real digits."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from onnx import helper

from rtc.calibration.oracle import Oracle
from rtc.compiler.core.errors import ModelError
from rtc.compiler.core.precision import Precision, Variant
from rtc.compiler.core.target import Backend
from rtc.targets.loader import backend, profile

BACKENDS = ("onnxruntime", "openvino")
LAYERS = ("conv1", "pool1", "conv2", "gap", "fc")


@pytest.fixture(params=BACKENDS)
def runtime(request) -> Backend:
    return backend(request.param)


def expected(model, inputs):
    with Oracle(model.SerializeToString()) as oracle:
        return oracle.run(inputs)["logits"]


def precisions(built):
    return {node: layer.precision for layer in built.layers for node in layer.onnx_nodes}


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_a_float_engine_equals_the_oracle_at_any_batch(runtime, convnet, digits, request_64, batch):
    engine = runtime.build(convnet.SerializeToString(), request_64).engine
    with runtime.load(engine, request_64) as runner:
        got = runner.run({"x": digits[:batch]})["logits"]
    np.testing.assert_allclose(got, expected(convnet, digits[:batch]), rtol=1e-5, atol=1e-6)


def test_an_int8_engine_equals_the_oracle_within_two_steps(runtime, quantised, digits, request_64):
    model = quantised()
    engine = runtime.build(model.SerializeToString(), request_64).engine
    with runtime.load(engine, request_64) as runner:
        got = runner.run({"x": digits})["logits"]
    reference = expected(model, digits)
    step = np.ptp(reference) / 255
    assert np.abs(got - reference).max() <= 2 * step


def test_the_scheme_s_graph_runs_in_int8_throughout(runtime, quantised, request_64):
    built = runtime.build(quantised().SerializeToString(), request_64)
    found = precisions(built)
    assert {name: found[name] for name in LAYERS} == dict.fromkeys(LAYERS, Precision.INT8)


def test_a_float_graph_runs_in_fp32_throughout(runtime, convnet, request_64):
    built = runtime.build(convnet.SerializeToString(), request_64)
    found = precisions(built)
    assert {name: found[name] for name in LAYERS} == dict.fromkeys(LAYERS, Precision.FP32)
    assert found["flat"] is None


def test_a_node_belongs_to_one_layer_and_an_activation_to_its_convolution(
    runtime, convnet, request_64
):
    layers = runtime.build(convnet.SerializeToString(), request_64).layers
    nodes = [node for layer in layers for node in layer.onnx_nodes]
    assert sorted(nodes) == sorted(node.name for node in convnet.graph.node)
    assert ("conv1", "relu1") in [layer.onnx_nodes for layer in layers]


def test_bound_runs_give_what_run_gives_and_are_not_disturbed_by_it(
    runtime, convnet, digits, request_64
):
    feeds = {"x": digits[:7].copy()}
    with runtime.load(convnet.SerializeToString(), request_64) as runner:
        wanted = runner.run(feeds)["logits"]
        runner.bind(feeds)
        feeds["x"][:] = 0  # the binding holds its own copy
        runner.run({"x": digits[7:14]})
        runner.enqueue()
        first = runner.results()["logits"]
        runner.enqueue()
        np.testing.assert_array_equal(first, wanted)
        np.testing.assert_array_equal(runner.results()["logits"], wanted)


def test_results_do_not_alias(runtime, convnet, digits, request_64):
    with runtime.load(convnet.SerializeToString(), request_64) as runner:
        first = runner.run({"x": digits})["logits"]
        kept = first.copy()
        runner.run({"x": digits[::-1]})
    np.testing.assert_array_equal(first, kept)


def test_the_engine_tells_its_signature(runtime, convnet, request_64):
    with runtime.load(convnet.SerializeToString(), request_64) as runner:
        assert runner.signature.to_dict() == {
            "inputs": [{"name": "x", "dtype": "float32", "shape": ["N", 1, 28, 28]}],
            "outputs": [{"name": "logits", "dtype": "float32", "shape": ["N", 10]}],
        }


def test_two_builds_give_the_same_bytes(runtime, convnet, request_64):
    graph = convnet.SerializeToString()
    assert runtime.build(graph, request_64).engine == runtime.build(graph, request_64).engine


@pytest.mark.parametrize("graph", [b"", b"not a model", b"\x08\x0a" * 50])
def test_bytes_that_are_no_model_are_a_model_error(runtime, graph, request_64):
    with pytest.raises(ModelError, match="ONNX model"):
        runtime.build(graph, request_64)


def test_a_truncated_model_is_a_model_error(runtime, convnet, request_64):
    with pytest.raises(ModelError) as caught:
        runtime.build(convnet.SerializeToString()[:500], request_64)
    assert caught.value.id == "unreadable-model"


def test_an_operator_that_the_runtime_lacks_is_named(runtime, request_64):
    tensor = helper.make_tensor_value_info
    node = helper.make_node("Wobble", ["x"], ["y"], name="w", domain="com.nobody")
    graph = helper.make_graph([node], "g", [tensor("x", 1, ["N", 4])], [tensor("y", 1, ["N", 4])])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.nobody", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    with pytest.raises(ModelError) as caught:
        runtime.build(model.SerializeToString(), request_64)
    assert caught.value.id == "runtime-refuses"
    assert "Wobble" in caught.value.seen
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_runtime_that_is_not_installed_says_how_to_install_it(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    here = backend(name).available()
    package = {"onnxruntime": "rtc-compiler", "openvino": "rtc-compiler[openvino]"}[name]
    assert (here.ok, here.fix) == (False, f"pip install '{package}'")


def test_padding_before_max_pooling_keeps_its_zeros(runtime, padded, request_64):
    inputs = -np.ones((1, 1, 4, 4), np.float32)
    with Oracle(padded.SerializeToString()) as oracle:
        wanted = oracle.run(inputs)["y"]
    assert wanted.max() == 0
    with runtime.load(padded.SerializeToString(), request_64) as runner:
        np.testing.assert_array_equal(runner.run({"x": inputs})["y"], wanted)


def test_half_is_offered_exactly_where_the_scheme_has_a_half_type(runtime):
    cpu = profile("cpu")
    assert (Variant.HALF in runtime.variants(cpu)) == (runtime.scheme(cpu).half is None)


def test_a_machine_meets_what_is_built_on_it(runtime, convnet, request_64):
    binding = runtime.build(convnet.SerializeToString(), request_64).binding
    here = runtime.meets(request_64.profile)
    assert binding
    assert all(needed in here[key] for key, needed in binding.items())


def test_kernels_are_timed_by_name(runtime, convnet, quantised, digits, request_64):
    for model in (convnet, quantised()):
        built = runtime.build(model.SerializeToString(), request_64)
        times = runtime.layer_times(built.engine, request_64, built.layers, {"x": digits}, 0.1)
        computing = [t for t, layer in zip(times, built.layers, strict=True) if layer.precision]
        assert None not in computing
        assert min(computing) > 0


def test_a_name_that_two_layers_share_has_no_time(runtime, convnet, digits, request_64):
    built = runtime.build(convnet.SerializeToString(), request_64)
    layers = (*built.layers, built.layers[0])
    times = runtime.layer_times(built.engine, request_64, layers, {"x": digits}, 0.05)
    assert (times[0], times[-1]) == (None, None)
    assert any(times)
