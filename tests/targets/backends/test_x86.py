"""INT8 on x86 CPUs that add products in 16 bits, with the real runtimes on extreme inputs."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from rtc.calibration.oracle import Oracle
from rtc.calibration.quantise import quantise_weight, weight_parameters
from rtc.compiler.core.errors import ModelError
from rtc.compiler.core.target import Backend, BuildRequest
from rtc.targets.backends import x86
from rtc.targets.loader import backend, profile

REQUEST = BuildRequest(profile("cpu"), (1, 1, 1), threads=1)
CONV = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
LAYERS = {
    # name: operator, weights' shape, axis of output channels, attributes, one input's shape
    "conv 16": ("Conv", (16, 16, 3, 3), 0, CONV, (16, 8, 8)),
    "conv 3": ("Conv", (16, 3, 3, 3), 0, CONV, (3, 8, 8)),
    "conv 1": ("Conv", (16, 1, 3, 3), 0, CONV, (1, 8, 8)),
    "conv 1x1": ("Conv", (32, 64, 1, 1), 0, {"kernel_shape": [1, 1]}, (64, 8, 8)),
    "grouped": ("Conv", (16, 4, 3, 3), 0, {**CONV, "group": 4}, (16, 8, 8)),
    "depthwise": ("Conv", (16, 1, 3, 3), 0, {**CONV, "group": 16}, (16, 8, 8)),
    "gemm": ("Gemm", (16, 64), 0, {"transB": 1}, (64,)),
    "matmul": ("MatMul", (64, 16), 1, {}, (64,)),
}


def layer(name: str, *, paired: bool, activation: type = np.uint8) -> onnx.ModelProto:
    """One INT8 layer between Q/DQ pairs; its weights are all positive: every sum is extreme."""
    op, shape, axis, attributes, source = LAYERS[name]
    top = np.iinfo(activation).max
    weight = np.random.default_rng(5).uniform(0.8, 1.0, shape).astype(np.float32)
    depthwise = name == "depthwise"
    scales = weight_parameters(weight, axis, paired=paired and not depthwise)
    arrays = {
        "w": quantise_weight(weight, scales, axis),
        "w_s": scales.scale,
        "w_z": scales.zero_point,
        "x_s": np.float32(1 / top),
        "y_s": np.float32(np.moveaxis(weight, axis, 0)[0].sum() / top),
        "zero": activation(0),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_s", "zero"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "x_s", "zero"], ["x_d"]),
        helper.make_node("DequantizeLinear", ["w", "w_s", "w_z"], ["w_d"], axis=axis),
        helper.make_node(op, ["x_d", "w_d"], ["y_f"], "layer", **attributes),
        helper.make_node("QuantizeLinear", ["y_f", "y_s", "zero"], ["y_q"]),
        helper.make_node("DequantizeLinear", ["y_q", "y_s", "zero"], ["y"]),
    ]
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", kind, ["N", *source])],
        [helper.make_tensor_value_info("y", kind, ["N", *("abcd"[: len(source)])])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def ones(model: onnx.ModelProto) -> np.ndarray:
    dims = model.graph.input[0].type.tensor_type.shape.dim[1:]
    return np.ones((1, *(dim.dim_value for dim in dims)), np.float32)


def expected(model: onnx.ModelProto) -> np.ndarray:
    with Oracle(model.SerializeToString()) as oracle:
        return oracle.run(ones(model))["y"]


@pytest.fixture(params=["onnxruntime", "openvino"])
def runtime(request: pytest.FixtureRequest) -> Backend:
    return backend(request.param)


@pytest.mark.parametrize("activation", [np.uint8, np.int8])
@pytest.mark.parametrize("name", LAYERS)
def test_paired_weights_overflow_on_no_cpu(runtime: Backend, name: str, activation: type) -> None:
    model = layer(name, paired=True, activation=activation)
    engine = runtime.build(model.SerializeToString(), REQUEST).engine
    with runtime.load(engine, REQUEST) as runner:
        got = runner.run({"x": ones(model)})["y"]
    true = expected(model)
    np.testing.assert_allclose(got, true, atol=2 * true.max() / np.iinfo(activation).max)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_known_to_overflow_by_its_weights(name: str) -> None:
    assert x86.overflowing(layer(name, paired=True)) == ()
    plain = x86.overflowing(layer(name, paired=False))
    assert plain == (() if name == "depthwise" else ("layer",))


@pytest.mark.parametrize(
    ("op", "shape", "most", "overflows"),
    [
        ("MatMul", (8,), 64, False),
        ("MatMul", (8,), 65, True),
        ("MatMul", (2, 8, 4), 65, True),
        ("MatMul", (2, 8, 4), 64, False),
        ("ConvTranspose", (8, 4, 3, 3), 65, True),
        ("ConvTranspose", (8, 4, 3, 3), 64, False),
    ],
)
def test_weights_of_other_shapes_are_looked_at_too(
    op: str, shape: tuple[int, ...], most: int, overflows: bool
) -> None:
    arrays = {"w": np.full(shape, most, np.int8), "s": np.float32(1), "z": np.int8(0)}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"]),
        helper.make_node(op, ["x", "wd"], ["y"], "layer"),
    ]
    constants = [numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()]
    graph = helper.make_graph(nodes, "g", [], [], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert x86.overflowing(model) == (("layer",) if overflows else ())


def test_overflowing_weights_bind_the_engine_to_cpus_with_room(
    runtime: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = layer("conv 16", paired=False).SerializeToString()
    monkeypatch.setattr(x86, "adds_in_16_bits", lambda: False)
    assert runtime.meets(REQUEST.profile).get(x86.KEY, frozenset()) <= {x86.WIDE}
    if runtime.name == "onnxruntime":  # it widens them where there is no room
        assert x86.KEY not in runtime.build(graph, REQUEST).binding
        return
    assert runtime.build(graph, REQUEST).binding[x86.KEY] == x86.WIDE
    monkeypatch.setattr(x86, "adds_in_16_bits", lambda: True)
    assert runtime.meets(REQUEST.profile)[x86.KEY] == frozenset()
    with pytest.raises(ModelError, match="overflow") as caught:
        runtime.build(graph, REQUEST)
    assert caught.value.id == "overflowing-weights"
    assert caught.value.where == "layer"


@pytest.mark.parametrize(
    ("machine", "flags", "saturates", "narrow"),
    [
        ("x86_64", "avx2 avx512_vnni", False, False),
        ("x86_64", "avx2 avx_vnni", False, False),
        ("x86_64", "avx2 avx512f", False, True),
        ("x86_64", "avx2 avx512_vnni", True, True),  # an emulator
        ("aarch64", "asimd", False, False),
    ],
)
def test_a_cpu_is_known_by_its_features_and_by_a_product(
    monkeypatch: pytest.MonkeyPatch, machine: str, flags: str, saturates: bool, narrow: bool
) -> None:
    monkeypatch.setattr(x86, "_saturates", lambda: saturates)
    monkeypatch.setattr(Path, "read_text", lambda path: f"flags : {flags}")
    monkeypatch.setattr(x86.platform, "machine", lambda: machine)
    assert x86.adds_in_16_bits.__wrapped__() is narrow


@pytest.mark.skipif(sys.platform != "linux", reason="a CPU tells its features in /proc")
def test_a_product_saturates_here_or_does_not() -> None:
    with_room = "vnni" in Path("/proc/cpuinfo").read_text()
    assert x86._saturates() is (x86.platform.machine() == "x86_64" and not with_room)
