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
from rtx_blocks import (
    ADA,
    BACKEND,
    BLOCK,
    REQUEST,
    block_model,
    build_plan,
    float_block,
    half_block,
    owner_of,
    precisions_of,
    quantised_block,
)

from rtc.compiler.core.errors import BuilderError, MachineError, ModelError
from rtc.compiler.core.precision import Precision, Variant
from rtc.compiler.core.target import BuildRequest, DeviceProfile
from rtc.targets.loader import profile, profiles

ON_A_GPU = [device for device in profiles().values() if "tensorrt_rtx" in device.backends]


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
    built = build_plan(float_block())
    assert built.binding["compute_capability"] == "8.9"
    assert all(needed in BACKEND.meets(ADA)[key] for key, needed in built.binding.items())
    assert built.runtime.startswith("tensorrt-rtx ")
    nodes = ("conv1", "relu1", "conv2", "add", "relu2", "gap", "fc")
    assert precisions_of(built, *nodes) == [Precision.FP32] * len(nodes)
    assert owner_of(built, "conv2") is owner_of(built, "add") is owner_of(built, "relu2")


def test_a_half_build() -> None:
    built = build_plan(half_block())
    nodes = ("conv1", "relu1", "conv2", "add", "gap", "fc")
    assert precisions_of(built, *nodes) == [Precision.HALF] * len(nodes)
    assert owner_of(built, "conv2").bytes_per_sample == 3 * 16 * 8 * 8 * 2


def test_an_int8_build() -> None:
    built = build_plan(quantised_block())
    assert precisions_of(built, "conv1", "conv2", "fc") == [
        Precision.INT8,
        Precision.INT8,
        Precision.FP32,
    ]
    assert owner_of(built, "x_q").precision is None  # quantising is no computation
    assert owner_of(built, "conv1") is owner_of(built, "relu1")
    assert {layer.precision for layer in built.layers if not layer.onnx_nodes} <= {None}


def test_turing_silently_convolves_in_float() -> None:
    text = BLOCK[: BLOCK.index("  [r1_q]")].replace("float[N,10] y", "float[N,16,8,8] r1") + "}"
    model = block_model(text.replace("<axis=0> ", ""))
    model.graph.initializer.extend(quantised_block().graph.initializer)
    assert precisions_of(build_plan(model), "conv1") == [Precision.INT8]
    assert precisions_of(build_plan(model, _on("7.5")), "conv1") == [Precision.FP32]


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
    error = _refused(_with(quantised_block(), w2_s=np.float32(scale)))
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
    content = float_block().SerializeToString()
    for damaged in (b"", b"not a model", content[: len(content) // 2]):
        _refused(damaged)


def test_another_dynamic_axis_is_refused() -> None:
    model = float_block()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    assert _refused(model).where == "input x"


def test_a_fixed_batch_builds_for_that_batch_only() -> None:
    model = float_block()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    fixed = owner_of(build_plan(model, BuildRequest(ADA, (4, 4, 4))), "conv2")
    assert fixed.bytes_per_sample == 3 * 16 * 8 * 8 * 4
    assert fixed.flops_per_sample == 2 * (16 * 8 * 8) * (16 * 9)
    assert _refused(model).seen == "4"


@pytest.mark.parametrize("compute_capability", ["9.0", "8.7", None])
def test_a_device_that_it_does_not_build_for(compute_capability: str | None) -> None:
    with pytest.raises(BuilderError) as caught:
        build_plan(float_block(), _on(compute_capability))
    assert caught.value.id == "unsupported-device"
    assert "8.9" in caught.value.expected


def test_a_builder_that_fails_says_why() -> None:
    with pytest.raises(BuilderError, match="FP32 GEMM is not supported"):
        build_plan(float_block(), _on("7.5"))


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    build_plan(quantised_block())
    _refused(_with(quantised_block(), act_s=np.float32(np.nan)))
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
    model = float_block()
    rng = np.random.default_rng(batch)
    feeds = {"x": rng.standard_normal((batch, 16, 8, 8)).astype(np.float32)}
    expected = ReferenceEvaluator(model).run(["y"], feeds)[0]
    request = BuildRequest(device, (1, 8, 16))
    with BACKEND.load(build_plan(model, request).engine, request) as runner:
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
    model = float_block()
    model.graph.node[0].input[2] = ""
    built = build_plan(model)
    assert owner_of(built, "conv1").precision is Precision.FP32
