"""Models that came quantised, in the form that TensorRT-RTX takes; engines are built for an 8.9."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

from rtc.calibration.oracle import Oracle
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.errors import ModelError
from rtc.compiler.core.precision import Precision
from rtc.compiler.core.target import BuildRequest, Built
from rtc.targets.backends.symmetric import make_symmetric
from rtc.targets.backends.tensorrt_rtx import TensorRTRTX
from rtc.targets.loader import profile

REQUEST = BuildRequest(profile("rtx4060ti"), (1, 8, 16))
HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'
U8, I8 = QuantType.QUInt8, QuantType.QInt8


def seen(count: int, *shape: int) -> Array:
    """Samples of which some are out of every range."""
    return (1.5 * np.random.default_rng(3).normal(size=(count, *shape))).astype(np.float32)


class Samples(CalibrationDataReader):  # type: ignore[misc]  # the library ships no types
    def __init__(self) -> None:
        self.rest: Iterator[Array] = iter([seen(16, 16, 12, 12)])

    def get_next(self) -> dict[str, Array] | None:
        found = next(self.rest, None)
        return None if found is None else {"x": found}


@pytest.fixture
def quantised(convnet_16: ModelProto, tmp_path: Path) -> Callable[..., ModelProto]:
    def make(activation: QuantType, weight: QuantType = I8, **options: object) -> ModelProto:
        onnx.save(convnet_16, tmp_path / "float.onnx")
        quantize_static(
            tmp_path / "float.onnx",
            tmp_path / "int8.onnx",
            Samples(),
            quant_format=QuantFormat.QDQ,
            activation_type=activation,
            weight_type=weight,
            per_channel=bool(options.pop("per_channel", False)),
            extra_options=options,
        )
        return onnx.load(tmp_path / "int8.onnx")

    return make


@pytest.fixture
def convnet_16() -> ModelProto:
    draw = np.random.default_rng(0)
    text = """convnet (float[N,16,12,12] x) => (float[N,10] y) {
      [conv1] a = Conv<pads=[1,1,1,1]>(x, w1, b1) [relu1] r = Relu(a)
      [pool] m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
      [conv2] c = Conv<pads=[1,1,1,1]>(m, w2, b2) [add] s = Add(c, m) [relu2] t = Relu(s)
      [gap] p = GlobalAveragePool(t) [flat] f = Flatten(p) [fc] y = Gemm(f, w3, b3)
    }"""
    shapes = {"w1": (16, 16, 3, 3), "b1": (16,), "w2": (16, 16, 3, 3), "b2": (16,)}
    values = {n: draw.normal(size=s) / 12 for n, s in shapes.items()}
    values |= {"w3": draw.normal(size=(16, 10)), "b3": draw.normal(size=10)}
    return with_constants(onnx.parser.parse_model(HEAD + text), **values)


def with_constants(model: ModelProto, **values: Array) -> ModelProto:
    for name, value in values.items():
        kept = value.astype(np.float32) if value.dtype.kind == "f" else value
        model.graph.initializer.append(numpy_helper.from_array(kept, name))
    return model


def rewritten(model: ModelProto) -> tuple[ModelProto, tuple[str, ...]]:
    """The model rewritten, after it was seen to compute the same."""
    changed = ModelProto()
    changed.CopyFrom(model)
    notes = make_symmetric(changed)
    onnx.checker.check_model(changed, full_check=True)
    sizes = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    x = seen(64, *sizes)
    with (
        Oracle(model.SerializeToString()) as before,
        Oracle(changed.SerializeToString()) as after,
    ):
        np.testing.assert_allclose(after.run(x)["y"], before.run(x)["y"], rtol=1e-6, atol=1e-6)
    again = ModelProto()
    again.CopyFrom(changed)
    assert make_symmetric(again) == ()
    assert [n.op_type for n in again.graph.node] == [n.op_type for n in changed.graph.node]
    return changed, notes


def build(model: ModelProto) -> Built:
    return TensorRTRTX().build(model.SerializeToString(), REQUEST)


def precisions(built: Built, *nodes: str) -> list[Precision | None]:
    return [next(each.precision for each in built.layers if n in each.onnx_nodes) for n in nodes]


def kinds(model: ModelProto) -> set[int]:
    """Types of zero points."""
    types = {each.name: each.data_type for each in model.graph.initializer}
    linear = ("QuantizeLinear", "DequantizeLinear")
    return {types[n.input[2]] for n in model.graph.node if n.op_type in linear}


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("activation", [U8, I8])
def test_symmetric_activations_of_either_type_run_in_int8(
    quantised: Callable[..., ModelProto], activation: QuantType, *, per_channel: bool
) -> None:
    model = quantised(activation, ActivationSymmetric=True, per_channel=per_channel)
    changed, notes = rewritten(model)
    assert notes == ()
    assert kinds(changed) == {onnx.TensorProto.INT8}
    built = build(model)
    assert precisions(built, "conv1", "conv2") == [Precision.INT8] * 2
    assert built.notes == ()


@pytest.mark.parametrize("activation", [U8, I8])
def test_other_zero_points_are_float_arithmetic_and_it_is_said(
    quantised: Callable[..., ModelProto], activation: QuantType
) -> None:
    model = quantised(activation)
    changed, notes = rewritten(model)
    assert not any(node.op_type == "QuantizeLinear" for node in changed.graph.node)
    (note,) = notes
    assert "x_QuantizeLinear" in note
    assert "let rtc quantise the float model" in note
    built = build(model)
    assert precisions(built, "conv1", "conv2", "fc") == [Precision.FP32] * 3
    assert built.notes == notes


def test_weights_with_zero_points_become_floats_beside_int8_activations(
    quantised: Callable[..., ModelProto],
) -> None:
    model = quantised(U8, U8, ActivationSymmetric=True)
    changed, notes = rewritten(model)
    assert any(node.op_type == "QuantizeLinear" for node in changed.graph.node)
    (note,) = notes
    assert "w1_DequantizeLinear" in note
    assert "b1" not in note  # a bias in int32 loses nothing
    assert precisions(build(model), "conv1", "conv2") == [Precision.FP32] * 2


WEIGHTS = """g (float[N,16,6,6] x) => (float[N,8,6,6] y) {
  [w_dq] w = DequantizeLinear<axis=0>(w_i, w_s, w_z)
  [conv] y = Conv<pads=[1,1,1,1]>(x, w)
}"""


@pytest.mark.parametrize("zero", [0, 3, 128])
@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16])
def test_constant_weights_under_float_activations(kind: type, zero: int) -> None:
    if zero > np.iinfo(kind).max:
        return
    draw, limits = np.random.default_rng(0), np.iinfo(kind)
    model = with_constants(
        onnx.parser.parse_model(HEAD + WEIGHTS),
        w_i=draw.integers(limits.min, limits.max, (8, 16, 3, 3), dtype=kind),
        w_s=draw.uniform(0.001, 0.002, 8),
        w_z=np.full(8, zero, kind),
    )
    changed, notes = rewritten(model)
    stays = (kind, zero) in ((np.int8, 0), (np.uint8, 128))
    assert [n.op_type for n in changed.graph.node] == ["DequantizeLinear"] * stays + ["Conv"]
    assert bool(notes) is not stays
    build(model)


MOVED = """g (float[N,16,6,6] x) => (float[N,16,6,6] y) {
  q = QuantizeLinear<axis=1>(x, s, z)
  t = Transpose<perm=[0,1,3,2]>(q)
  a, b = Split<axis=1, num_outputs=2>(t)
  c = Concat<axis=1>(b, a)
  y = DequantizeLinear<axis=-3>(c, s, z)
}"""


@pytest.mark.parametrize(
    ("kind", "zeros"),
    [
        (np.uint8, [128]),
        (np.uint8, [0]),
        (np.uint8, [128, 7]),
        (np.int8, [3]),
        (np.uint16, [32768]),
        (np.int16, [0]),
    ],
)
def test_integers_that_are_moved_between_q_and_dq(kind: type, zeros: list[int]) -> None:
    axis = len(zeros) > 1
    model = with_constants(
        onnx.parser.parse_model(HEAD + MOVED),
        s=np.linspace(0.01, 0.02, 16) if axis else np.array(0.015),
        z=np.resize(np.array(zeros, kind), 16) if axis else np.array(zeros[0], kind),
    )
    changed, notes = rewritten(model)
    assert bool(notes) is not (zeros == [128])
    quantises = any(node.op_type == "QuantizeLinear" for node in changed.graph.node)
    assert quantises is (zeros == [128])
    assert build(model).layers


def test_both_zero_points_meet_in_a_concat() -> None:
    text = """g (float[N,16,6,6] x) => (float[N,32,6,6] y) {
      p = QuantizeLinear(x, s, z128) q = QuantizeLinear(x, s, z0)
      c = Concat<axis=1>(p, q)
      y = DequantizeLinear(c, s, z128)
    }"""
    model = with_constants(
        onnx.parser.parse_model(HEAD + text),
        s=np.array(0.02),
        z0=np.array(0, np.uint8),
        z128=np.array(128, np.uint8),
    )
    changed, _ = rewritten(model)
    assert not any("Quantize" in node.op_type for node in changed.graph.node)
    build(model)


def test_scales_that_a_graph_computes_are_still_refused_by_name() -> None:
    text = """g (float[N,16] x) => (float[N,16] y) {
      m = ReduceMax<keepdims=0>(x)
      [q] i = QuantizeLinear(x, m, z) [dq] y = DequantizeLinear(i, m, z)
    }"""
    model = with_constants(onnx.parser.parse_model(HEAD + text), z=np.array(3, np.uint8))
    with pytest.raises(ModelError, match=r"q \(QuantizeLinear\): quantised to uint8"):
        build(model)
