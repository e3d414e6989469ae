"""Models that ONNX Runtime's own tools quantise dynamically, in the forms that these write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import yaml
from check_pass import unit_of
from onnx import ModelProto, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from rtc.calibration.oracle import Oracle
from rtc.compiler import compile, load  # noqa: A004 - the verb of this tool
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.errors import ModelError
from rtc.compiler.frontend.axes import settled
from rtc.compiler.frontend.dynamic_ranges import with_fixed_ranges
from rtc.compiler.frontend.independence import apart
from rtc.compiler.storage.store import Store

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'
PERCEPTRON = """
g (float[N,12] x) => (float[N,4] y) {
  a = MatMul(x, w12x32) b = Add(a, w32) r = Relu(b)
  c = MatMul(r, w32x16) d = MatMul(r, v32x16) t = Tanh(d) m = Mul(c, t) y = MatMul(m, w16x4)
}
"""
RECURRENT = """
g (float[N,5,12] x) => (float[N,4] y) {
  t = Transpose<perm=[1,0,2]>(x)
  q, hidden, c = LSTM<hidden_size=16>(t, w1x64x12, w1x64x16, w1x128)
  s = Squeeze(hidden, first)
  y = MatMul(s, w16x4)
}
"""
BOTH_WAYS = """
g (float[N,5,12] x) => (float[N,4] y) {
  t = Transpose<perm=[1,0,2]>(x)
  q, hidden = LSTM<hidden_size=16, direction="bidirectional">(t, w2x64x12, w2x64x16)
  m = ReduceMean<axes=[0], keepdims=0>(hidden)
  y = MatMul(m, w16x4)
}
"""
OVER_TIME = """
g (float[T,12] x) => (float[T,4] y) {
  t = Unsqueeze(x, second)
  q, hidden = LSTM<hidden_size=16>(t, w1x64x12, w1x64x16)
  s = Squeeze(q, middle)
  y = MatMul(s, w16x4)
}
"""
BY_HAND = """
g (float[N,12] x) => (float[N,4] y) {
  size = Abs(x)
  largest = ReduceMax<keepdims=0>(size)
  scale = Div(largest, most)
  i = QuantizeLinear(x, scale, zero)
  f = DequantizeLinear(i, scale, zero)
  y = MatMul(f, w12x4)
}
"""
CONSTANTS = {
    "first": np.array([0]),
    "second": np.array([1]),
    "middle": np.array([1, 2]),
    "most": np.array(127, np.float32),
    "zero": np.array(0, np.int8),
    "ones": np.ones((4, 2), np.float32),
}


def floats(text: str) -> ModelProto:
    """A model with random weights, of the shapes that their names tell."""
    model, draw = onnx.parser.parse_model(HEAD + text), np.random.default_rng(0)
    for name in dict.fromkeys(n for node in model.graph.node for n in node.input):
        value = CONSTANTS.get(name)
        if name[0] in "wv" and name[1:2].isdigit():
            shape = [int(size) for size in name[1:].split("x")]
            value = (draw.normal(size=shape) / np.sqrt(shape[-2:][0])).astype(np.float32)
        if value is not None:
            model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model


@pytest.fixture
def quantised(tmp_path: Path) -> Callable[..., ModelProto]:
    def make(text: str, *, fused: bool = False, **options: object) -> ModelProto:
        onnx.save(floats(text), tmp_path / "float.onnx")
        quantize_dynamic(tmp_path / "float.onnx", tmp_path / "int8.onnx", **options)
        if fused:
            session = ort.SessionOptions()
            session.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
            session.optimized_model_filepath = str(tmp_path / "int8.onnx")
            ort.InferenceSession(tmp_path / "int8.onnx", session, ["CPUExecutionProvider"])
        model = onnx.load(tmp_path / "int8.onnx")
        used = {node.domain for node in model.graph.node} | {""}
        kept = [each for each in model.opset_import if each.domain in used]
        del model.opset_import[:]
        model.opset_import.extend(kept)
        return model

    return make


def samples(model: ModelProto, count: int = 16) -> Array:
    sizes = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    return np.random.default_rng(1).normal(size=(count, *sizes)).astype(np.float32)


def operators(model: ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("kind", [QuantType.QInt8, QuantType.QUInt8])
def test_fused_products_take_ranges_of_the_batch_and_no_more(
    quantised: Callable[..., ModelProto], kind: QuantType
) -> None:
    model = quantised(PERCEPTRON, fused=True, weight_type=kind)
    assert operators(model) >= {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"}
    unit, x = unit_of(model.SerializeToString()), samples(model)
    found = settled(unit, x, 4)
    assert found.unit.signature.inputs[0].shape[0] == "N"
    assert "range of the whole batch" in found.notes[0]
    fixed = with_fixed_ranges(unit, x)
    assert fixed is not None
    with Oracle(unit.onnx.proto) as before, Oracle(fixed.onnx.proto) as after:
        np.testing.assert_allclose(after.run(x)["y"], before.run(x)["y"], rtol=1e-5, atol=1e-6)
        assert apart(before.run(x)["y"][:2], before.run(x[:2])["y"]) > 1e-3
        assert apart(after.run(x)["y"][:2], after.run(x[:2])["y"]) < 1e-5


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kind", [QuantType.QInt8, QuantType.QUInt8])
@pytest.mark.parametrize("text", [RECURRENT, BOTH_WAYS])
def test_a_quantised_lstm_is_told_by_the_float_one(
    quantised: Callable[..., ModelProto], text: str, kind: QuantType, *, per_channel: bool
) -> None:
    model = quantised(text, weight_type=kind, per_channel=per_channel)
    assert "DynamicQuantizeLSTM" in operators(model)
    unit, x = unit_of(model.SerializeToString()), samples(model)
    assert "range of the whole batch" in settled(unit, x, 4).notes[0]
    fixed = with_fixed_ranges(unit, x)
    assert fixed is not None
    with Oracle(unit.onnx.proto) as before, Oracle(fixed.onnx.proto) as after:
        assert apart(before.run(x)["y"], after.run(x)["y"]) < 0.05


def test_an_lstm_over_the_samples_is_still_refused(quantised: Callable[..., ModelProto]) -> None:
    model = quantised(OVER_TIME)
    assert "DynamicQuantizeLSTM" in operators(model)
    with pytest.raises(ModelError) as refused:
        settled(unit_of(model.SerializeToString()), samples(model), 4)
    assert refused.value.id == "samples-depend"
    assert "batch: 1" in refused.value.fix


def test_what_mixes_samples_beside_ranges_is_still_refused(
    quantised: Callable[..., ModelProto],
) -> None:
    text = PERCEPTRON.replace("y = MatMul(m, w16x4)", "z = MatMul(m, w16x4) y = Softmax<axis=0>(z)")
    model = quantised(text, fused=True)
    with pytest.raises(ModelError) as refused:
        settled(unit_of(model.SerializeToString()), samples(model), 4)
    assert refused.value.id == "samples-depend"


def test_a_range_that_a_graph_takes_in_its_own_nodes() -> None:
    model = floats(BY_HAND)
    unit, x = unit_of(model.SerializeToString()), samples(model)
    assert "range of the whole batch" in settled(unit, x, 4).notes[0]
    fixed = with_fixed_ranges(unit, x)
    assert fixed is not None
    with Oracle(unit.onnx.proto) as before, Oracle(fixed.onnx.proto) as after:
        np.testing.assert_allclose(after.run(x)["y"], before.run(x)["y"], rtol=1e-5, atol=1e-6)


def test_a_fixed_batch_may_take_its_range() -> None:
    text = BY_HAND.replace("N", "4").replace(
        "y = MatMul(f, w12x4)", "c = Concat<axis=1>(f, ones) y = MatMul(c, w14x4)"
    )
    model = floats(text)
    found = settled(unit_of(model.SerializeToString()), samples(model), 4)
    assert found.unit.signature.inputs[0].shape[0] == 4
    assert any("range of the whole batch" in note for note in found.notes)


def test_constant_ranges_are_none_that_are_taken() -> None:
    text = BY_HAND.replace("largest = ReduceMax<keepdims=0>(size)", "largest = Identity(most)")
    model = floats(text)
    assert with_fixed_ranges(unit_of(model.SerializeToString()), samples(model)) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "fused"), [(PERCEPTRON, False), (PERCEPTRON, True), (RECURRENT, False)]
)
def test_such_models_compile_for_a_cpu_at_batch_4(
    quantised: Callable[..., ModelProto], tmp_path: Path, text: str, *, fused: bool
) -> None:
    model = quantised(text, fused=fused)
    x = samples(model, 96)
    onnx.save(model, tmp_path / "net.onnx")
    with Oracle(model.SerializeToString()) as oracle:
        wanted = oracle.run(x[:4])["y"]
        labels = np.concatenate([oracle.run(each[None])["y"] for each in x]).argmax(axis=1)
    np.savez(tmp_path / "samples.npz", x=x, y=labels)
    recipe = {
        "recipe": 1,
        "name": "net",
        "version": "1.0.0",
        "source": {"onnx": "net.onnx"},
        "data": {
            "npz": "samples.npz",
            "classes": 4,
            "split": {"train": 0, "calibration": 0.3, "test": 0.65},
        },
        "precision": {"offer": ["fp32"], "search": None},
        "targets": ["cpu"],
        "measure": {"seconds": 0.1, "threads": 1},
        "gates": {"top1_drop": None, "parity": None},
        "batch": 4,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (made,) = compile(tmp_path / "recipe.yaml", out=tmp_path / "out", store=Store(tmp_path / "s"))
    assert made.passed
    assert any("range of the whole batch" in doubt for doubt in made.report.doubts)
    with load(tmp_path / "out/net/cpu") as engine:
        assert apart(wanted, engine(x[:4])) < 0.05
