"""Engines are built for an RTX 4060 Ti (8.9) here, without a GPU; those that run need one."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from rtc.compiler.core.errors import BuilderError, MachineError, ModelError
from rtc.compiler.core.precision import Precision, Variant
from rtc.compiler.core.target import BuildRequest, Built, BuiltLayer, DeviceProfile
from rtc.targets.backends.rtx_layers import parse
from rtc.targets.backends.tensorrt_rtx import TensorRTRTX
from rtc.targets.loader import profile, profiles

BACKEND = TensorRTRTX()
ADA = profile("rtx4060ti")
REQUEST = BuildRequest(ADA, (1, 8, 16))
ON_A_GPU = [device for device in profiles().values() if "tensorrt_rtx" in device.backends]

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


def _model(text: str, **weights: np.ndarray) -> ModelProto:
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(values), name) for name, values in weights.items()
    )
    return model


def _weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    shapes = {"w1": (16, 16, 3, 3), "w2": (16, 16, 3, 3), "fc_w": (10, 16), "fc_b": 10, "b": 16}
    return {n: (0.1 * rng.standard_normal(s)).astype(np.float32) for n, s in shapes.items()}


def _float_block() -> ModelProto:
    return _model(FLOAT_BLOCK, **_weights())


def _half_block() -> ModelProto:
    text = FLOAT_BLOCK.replace("float[", "float16[")
    return _model(text, **{n: w.astype(np.float16) for n, w in _weights().items()})


def _quantised_block(*, per_channel: bool = False) -> ModelProto:
    weights = _weights()
    extra: dict[str, np.ndarray] = {"act_s": np.float32(0.05), "zero": np.int8(0)}
    for name in ("w1", "w2"):
        values = weights.pop(name)
        axes = (1, 2, 3) if per_channel else None
        scale = np.abs(values).max(axis=axes, keepdims=True) / 127
        extra[f"{name}_i"] = np.round(values / scale).astype(np.int8)
        extra[f"{name}_s"] = scale.reshape(-1) if per_channel else scale.reshape(())
        extra[f"{name}_z"] = np.zeros(16 if per_channel else (), np.int8)
    text = BLOCK if per_channel else BLOCK.replace("<axis=0> ", "")
    return _model(text, **weights, **extra)


def _build(model: ModelProto, request: BuildRequest = REQUEST) -> Built:
    return BACKEND.build(model.SerializeToString(), request)


def _owner(built: Built, node: str) -> BuiltLayer:
    """The one layer that a node is in."""
    owners = [layer for layer in built.layers if node in layer.onnx_nodes]
    assert len(owners) == 1, owners
    return owners[0]


def _precisions(built: Built, *nodes: str) -> list[Precision | None]:
    return [_owner(built, node).precision for node in nodes]


def _on(compute_capability: str | None) -> BuildRequest:
    return BuildRequest(replace(ADA, compute_capability=compute_capability), (1, 8, 16))


def test_importing_the_backend_imports_no_runtime() -> None:
    code = (
        "import sys, rtc.targets.backends.tensorrt_rtx as b; b.TensorRTRTX().available();"
        "assert not {'tensorrt_rtx', 'onnx', 'cuda'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_it_is_installed() -> None:
    found = BACKEND.available()
    assert found.ok
    assert found.version[0].isdigit()


def test_the_scheme_is_what_the_parser_takes() -> None:
    scheme = BACKEND.scheme(ADA)
    assert (scheme.activation, scheme.bias, scheme.per_channel) == ("int8", "float", False)
    assert not scheme.quantise_outputs


def test_variants_that_turing_cannot_build_are_left_out() -> None:
    assert BACKEND.variants(ADA) == {}
    turing = replace(ADA, compute_capability="7.5")
    assert set(BACKEND.variants(turing)) == {Variant.FP32, Variant.INT8, Variant.MIX}


def test_a_float_build() -> None:
    built = _build(_float_block())
    assert built.binding["compute_capability"] == "8.9"
    assert all(needed in BACKEND.meets(ADA)[key] for key, needed in built.binding.items())
    assert built.runtime.startswith("tensorrt-rtx ")
    nodes = ("conv1", "relu1", "conv2", "add", "relu2", "gap", "fc")
    assert _precisions(built, *nodes) == [Precision.FP32] * len(nodes)
    assert _owner(built, "conv2") is _owner(built, "add") is _owner(built, "relu2")


def test_traffic_and_operations_of_a_float_convolution() -> None:
    layer = _owner(_build(_float_block()), "conv2")
    activations = 16 * 8 * 8 * 4
    assert layer.bytes_per_sample == 3 * activations  # input, skip, output
    weights = 16 * 16 * 9 * 4
    assert layer.bytes_fixed is not None
    assert weights <= layer.bytes_fixed <= weights + 16 * 4 + 64  # bias, and a few scalars
    assert layer.flops_per_sample == 2 * (16 * 8 * 8) * (16 * 9)


def test_one_batch_and_several_batches_cost_the_same_per_sample() -> None:
    several = _owner(_build(_float_block()), "conv2")
    one = _owner(_build(_float_block(), BuildRequest(ADA, (8, 8, 8))), "conv2")
    assert one.bytes_per_sample == several.bytes_per_sample
    assert one.flops_per_sample == several.flops_per_sample


def test_a_half_build() -> None:
    built = _build(_half_block())
    nodes = ("conv1", "relu1", "conv2", "add", "gap", "fc")
    assert _precisions(built, *nodes) == [Precision.HALF] * len(nodes)
    assert _owner(built, "conv2").bytes_per_sample == 3 * 16 * 8 * 8 * 2


def test_an_int8_build() -> None:
    built = _build(_quantised_block())
    assert _precisions(built, "conv1", "conv2", "fc") == [
        Precision.INT8,
        Precision.INT8,
        Precision.FP32,
    ]
    assert _owner(built, "x_q").precision is None  # quantising is no computation
    assert _owner(built, "conv1") is _owner(built, "relu1")
    assert {layer.precision for layer in built.layers if not layer.onnx_nodes} <= {None}


def test_every_layer_of_these_plans_has_known_costs() -> None:
    for model in (_float_block(), _half_block(), _quantised_block()):
        for layer in _build(model).layers:
            assert None not in (layer.bytes_per_sample, layer.bytes_fixed, layer.flops_per_sample)


def test_a_scale_per_channel_makes_the_convolution_write_fp32_and_leave_its_relu() -> None:
    """Why the scheme has one weight scale per tensor."""
    per_tensor, per_channel = _build(_quantised_block()), _build(_quantised_block(per_channel=True))
    assert "relu1" in _owner(per_tensor, "conv1").onnx_nodes
    assert "relu1" not in _owner(per_channel, "conv1").onnx_nodes
    assert _precisions(per_channel, "conv1", "conv2") == [Precision.INT8] * 2
    assert {datatype for _, datatype, _ in _owner(per_channel, "conv1").outputs} == {"Float"}


def test_unquantised_weights_show_as_a_float_convolution() -> None:
    weights = _weights()
    text = BLOCK.replace("[w1_dq] w1 = DequantizeLinear <axis=0> (w1_i, w1_s, w1_z)\n", "")
    model = _quantised_block()
    block = _model(text.replace("<axis=0> ", ""), w1=weights["w1"])
    block.graph.initializer.extend(
        t for t in model.graph.initializer if not t.name.startswith("w1")
    )
    assert _precisions(_build(block), "conv1", "conv2") == [Precision.FP32, Precision.INT8]


def test_turing_silently_convolves_in_float() -> None:
    text = BLOCK[: BLOCK.index("  [r1_q]")].replace("float[N,10] y", "float[N,16,8,8] r1") + "}"
    model = _model(text.replace("<axis=0> ", ""))
    model.graph.initializer.extend(_quantised_block().graph.initializer)
    assert _precisions(_build(model), "conv1") == [Precision.INT8]
    assert _precisions(_build(model, _on("7.5")), "conv1") == [Precision.FP32]


def test_names_with_brackets_commas_and_markup_are_kept() -> None:
    model = _quantised_block()
    odd = {
        "conv1": "a[0], LayerType: x]<script>alert('x')</script>",
        "relu1": "b\nName: c, LayerType: e",
        "x_q": "/q, /r",
        "fc": "",
    }
    for node in model.graph.node:
        node.name = odd.get(node.name, node.name)
    built = _build(model)
    assert _precisions(built, odd["conv1"], odd["relu1"]) == [Precision.INT8] * 2
    assert _owner(built, odd["x_q"]).precision is None
    assert _owner(built, "y").precision is Precision.FP32  # a node without a name: by its output
    assert len(built.layers) == len(_build(_quantised_block()).layers)


MESSAGE = (
    "Layers:\n"
    "Name: node_Conv_9\n__gemm_myl0_52, LayerType: sparse_gemm, Inputs: [ { Name: t, Dimensions: "
    "[-1,960,49], Strides: [47040,49,1], StrideOrder: [2,1,0], Datatype: FP6, Format: (Linear) Row "
    "major linear format }, { Name: u[0], Dimensions: [], Strides: [], StrideOrder: [], Datatype: "
    "Half, Format: (Linear) Row major linear format }], Constants: [], Outputs: [], TacticName: k, "
    "StreamId: 0, Metadata: [ONNX Layer: node_Conv_9]__gemm_from_conv1x1\x1f[ONNX Layer: a[1]]\n"
    "Name: __mye7_myl0_53, LayerType: wait, Inputs: [], Constants: [], Outputs: [], TacticName: , "
    "StreamId: 0, Metadata: \n\nI/O Tensors:\n Name: x, IOMode: Input, DataType: Float"
)


def test_a_layer_list_with_kinds_and_types_that_nobody_knows() -> None:
    gemm, wait = parse(MESSAGE)
    assert (gemm.name, gemm.kind) == ("node_Conv_9\n__gemm_myl0_52", "sparse_gemm")
    assert gemm.nodes == ("node_Conv_9", "a[1]")
    assert [(t.name, t.dims, t.datatype) for t in gemm.inputs] == [
        ("t", (-1, 960, 49), "FP6"),
        ("u[0]", (), "Half"),
    ]
    assert (wait.kind, wait.nodes, wait.inputs) == ("wait", (), ())


@pytest.mark.parametrize(
    "message", ["", "Layers:", "Layers:\nName: x, LayerType: y", MESSAGE[:300]]
)
def test_a_layer_list_in_another_form_is_empty(message: str) -> None:
    assert parse(message) == ()


def _refused(model: ModelProto | bytes, request: BuildRequest = REQUEST) -> ModelError:
    content = model if isinstance(model, bytes) else model.SerializeToString()
    with pytest.raises(ModelError) as caught:
        BACKEND.build(content, request)
    assert "\n" not in str(caught.value)
    return caught.value


def _with(model: ModelProto, **weights: np.ndarray) -> ModelProto:
    """The model with other values for some weights."""
    for index, tensor in enumerate(model.graph.initializer):
        if tensor.name in weights:
            changed = numpy_helper.from_array(np.asarray(weights[tensor.name]), tensor.name)
            model.graph.initializer[index].CopyFrom(changed)
    return model


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_a_scale_that_is_no_positive_number_is_refused_by_name(scale: float) -> None:
    error = _refused(_with(_quantised_block(), w2_s=np.float32(scale)))
    assert "w2_dq (DequantizeLinear)" in error.seen
    assert "x_q" not in error.seen


def test_all_unknown_operators_are_listed_at_once() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "my.domain" : 1]>
    g (float[N,4] x) => (float[N,4] z) { [a] y = Foo (x) [b] z = my.domain.Bar (y) }"""
    seen = _refused(onnx.parser.parse_model(text)).seen
    assert "a (Foo): there is no such operator" in seen
    assert "b (Bar): there is no such operator" in seen


def test_many_nodes_of_one_unknown_operator_are_one_line() -> None:
    nodes = " ".join(f"[n{i}] t{i + 1} = Foo (t{i})" for i in range(9))
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
    g (float[N,4] t0) => (float[N,4] t9) {{ {nodes} }}"""
    seen = _refused(onnx.parser.parse_model(text)).seen
    assert seen == "n0, n1, n2 and 6 more (Foo): there is no such operator"


def test_bytes_that_are_no_model_are_refused() -> None:
    content = _float_block().SerializeToString()
    for damaged in (b"", b"not a model", content[: len(content) // 2]):
        _refused(damaged)


def test_another_dynamic_axis_is_refused() -> None:
    model = _float_block()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    assert _refused(model).where == "input x"


def test_a_fixed_batch_builds_for_that_batch_only() -> None:
    model = _float_block()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    fixed = _owner(_build(model, BuildRequest(ADA, (4, 4, 4))), "conv2")
    assert fixed.bytes_per_sample == 3 * 16 * 8 * 8 * 4
    assert fixed.flops_per_sample == 2 * (16 * 8 * 8) * (16 * 9)
    assert _refused(model).seen == "4"


@pytest.mark.parametrize("compute_capability", ["9.0", "8.7", None])
def test_a_device_that_it_does_not_build_for(compute_capability: str | None) -> None:
    with pytest.raises(BuilderError) as caught:
        _build(_float_block(), _on(compute_capability))
    assert caught.value.id == "unsupported-device"
    assert "8.9" in caught.value.expected


def test_a_builder_that_fails_says_why() -> None:
    with pytest.raises(BuilderError, match="FP32 GEMM is not supported"):
        _build(_float_block(), _on("7.5"))


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    _build(_quantised_block())
    _refused(_with(_quantised_block(), act_s=np.float32(np.nan)))
    assert capfd.readouterr() == ("", "")


def test_without_a_gpu_an_engine_is_refused_unread() -> None:
    runs = BACKEND.runnable(ADA)
    if runs.ok:
        pytest.skip("this machine can run the engine")
    assert runs.missing
    with pytest.raises(MachineError) as caught:
        BACKEND.load(b"not an engine", REQUEST)
    assert caught.value.id in {"no-device", "old-driver", "wrong-device"}


@pytest.fixture
def device() -> DeviceProfile:
    """A profile that this machine's GPU fits."""
    refusals = {device.name: BACKEND.runnable(device) for device in ON_A_GPU}
    for name, found in refusals.items():
        if found.ok:
            return profile(name)
    pytest.skip("; ".join(sorted({found.missing for found in refusals.values()})))


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [1, 8, 16])
def test_an_engine_computes_what_the_graph_says(device: DeviceProfile, batch: int) -> None:
    model = _float_block()
    rng = np.random.default_rng(batch)
    feeds = {"x": rng.standard_normal((batch, 16, 8, 8)).astype(np.float32)}
    expected = ReferenceEvaluator(model).run(["y"], feeds)[0]
    request = BuildRequest(device, (1, 8, 16))
    with BACKEND.load(_build(model, request).engine, request) as runner:
        assert runner.signature.inputs[0].shape == ("batch", 16, 8, 8)
        np.testing.assert_allclose(runner.run(feeds)["y"], expected, atol=1e-2)
        runner.bind(feeds)
        runner.enqueue()
        np.testing.assert_allclose(runner.results()["y"], expected, atol=1e-2)


@pytest.mark.gpu
def test_an_engine_for_another_device_is_refused_unread(device: DeviceProfile) -> None:
    other = "7.5" if device.compute_capability != "7.5" else "8.9"
    with pytest.raises(MachineError) as caught:
        BACKEND.load(b"not an engine", _on(other))
    assert caught.value.id == "wrong-device"
    assert str(device.compute_capability) in caught.value.seen
    assert caught.value.expected == other


def test_an_optional_input_without_a_name_is_none() -> None:
    model = _float_block()
    model.graph.node[0].input[2] = ""
    built = _build(model)
    assert _owner(built, "conv1").precision is Precision.FP32
