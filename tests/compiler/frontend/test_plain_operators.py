"""Models that ONNX Runtime's own tools wrote, compiled by other runtimes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from check_pass import unit_of
from one_operator import model_of, operators
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from rtc.calibration.oracle import Oracle
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.target import BuildRequest
from rtc.compiler.core.unit import Unit
from rtc.compiler.frontend import plain_operators
from rtc.compiler.frontend.axes import settled
from rtc.compiler.frontend.fused_operators import FUSED
from rtc.compiler.frontend.independence import apart
from rtc.compiler.frontend.plain_operators import in_plain_operators
from rtc.targets.loader import backend, profile

DRAW = np.random.default_rng(0)
CONVNET = """
g (float[N,3,8,8] x) => (float[N,4] y) {
  a = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, k, kb) b = Relu(a)
  c = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(b, k2, kb) d = Add(c, b) e = LeakyRelu<alpha=0.1>(d)
  p = GlobalAveragePool(e) f = Flatten(p) h = Gemm(f, w, wb) r = Relu(h) y = Gemm(r, v)
}
"""
CONSTANTS = {
    name: value.astype(np.float32)
    for name, value in {
        "k": DRAW.normal(size=(8, 3, 3, 3)) / 3,
        "kb": DRAW.normal(size=8) / 3,
        "k2": DRAW.normal(size=(8, 8, 3, 3)) / 6,
        "w": DRAW.normal(size=(8, 16)),
        "wb": DRAW.normal(size=16) / 3,
        "v": DRAW.normal(size=(16, 4)),
    }.items()
}
SAMPLES = DRAW.normal(size=(32, 3, 8, 8)).astype(np.float32)


class Samples(CalibrationDataReader):  # type: ignore[misc]  # the library ships no types
    def __init__(self) -> None:
        self.left = iter(SAMPLES)

    def get_next(self) -> dict[str, Array] | None:
        sample = next(self.left, None)
        return None if sample is None else {"x": sample[None]}


def _optimised(folder: Path) -> onnx.ModelProto:
    """As ONNX Runtime saves a model that it has optimised."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    model = model_of(CONVNET, CONSTANTS)
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimised.onnx")


def _quantised(folder: Path, *, per_channel: bool) -> onnx.ModelProto:
    onnx.save(model_of(CONVNET, CONSTANTS), folder / "float.onnx")
    quantize_static(
        folder / "float.onnx",
        folder / "int8.onnx",
        Samples(),
        quant_format=QuantFormat.QOperator,
        per_channel=per_channel,
        reduce_range=True,
        weight_type=QuantType.QInt8,
    )
    return onnx.load(folder / "int8.onnx")


MAKERS: dict[str, Callable[[Path], onnx.ModelProto]] = {
    "optimised": _optimised,
    "quantised": lambda folder: _quantised(folder, per_channel=False),
    "quantised per channel": lambda folder: _quantised(folder, per_channel=True),
}


@pytest.fixture(params=MAKERS)
def given(request: pytest.FixtureRequest, tmp_path: Path) -> Unit:
    model = MAKERS[request.param](tmp_path)
    names = operators(model)
    assert any("Fused" in name or "QLinear" in name for name in names)
    return unit_of(model.SerializeToString())


def test_they_are_written_in_onnx_operators_and_give_the_same(given: Unit) -> None:
    unit, note = in_plain_operators(given, SAMPLES)
    assert note == ""
    model = onnx.load_model_from_string(unit.onnx.proto)
    assert {each.domain for each in model.opset_import} == {""}
    assert not any("QLinear" in name for name in operators(model))
    with Oracle(given.onnx.proto) as before, Oracle(unit.onnx.proto) as after:
        wanted, seen = (next(iter(each.run(SAMPLES).values())) for each in (before, after))
    assert apart(wanted, seen) < 2e-2


@pytest.mark.parametrize(
    ("target", "runtime"), [("rtx4060ti", "tensorrt_rtx"), ("cpu", "openvino")]
)
def test_other_runtimes_build_them(given: Unit, target: str, runtime: str) -> None:
    made = settled(given, SAMPLES, 8)
    assert made.notes == ()
    request = BuildRequest(profile(target), (1, 8, 8))
    built = backend(runtime).build(made.unit.onnx.proto, request)
    assert built.notes == () or "zero points" in built.notes[0]


def test_a_model_without_them_keeps_its_bytes() -> None:
    unit = unit_of(model_of(CONVNET, CONSTANTS).SerializeToString())
    assert in_plain_operators(unit, SAMPLES) == (unit, "")


def test_what_stays_is_told(tmp_path: Path) -> None:
    text = """
    g (float[N,7,8] x) => (float[N,4] y) {
      [f] a = com.microsoft.Attention<num_heads=2, unidirectional=1>(x, qkv, qkvb)
      b = com.microsoft.Gelu(a) m = ReduceMean<axes=[1], keepdims=0>(b) y = MatMul(m, w84)
    }
    """
    constants = {"qkv": (8, 24), "qkvb": (24,), "w84": (8, 4)}
    drawn = {name: DRAW.normal(size=size).astype(np.float32) for name, size in constants.items()}
    unit = unit_of(model_of(text, drawn).SerializeToString())
    made, note = in_plain_operators(unit, SAMPLES[:, 0, :7])
    assert "f (Attention): it attends in one direction" in note
    kinds = operators(onnx.load_model_from_string(made.onnx.proto))
    assert "com.microsoft.Attention" in kinds
    assert "com.microsoft.Gelu" not in kinds


def test_an_old_opset_is_told() -> None:
    model = model_of(CONVNET.replace("Relu(h)", "com.microsoft.Gelu(h)"), CONSTANTS)
    model.opset_import[0].version = 12
    unit = unit_of(model.SerializeToString())
    same, note = in_plain_operators(unit, SAMPLES)
    assert same is unit
    assert "opset 12" in note


def test_a_node_that_its_parts_do_not_stand_for_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    forms = {**FUSED, "com.microsoft.Gelu": FUSED["com.microsoft.QuickGelu"]}
    monkeypatch.setattr(plain_operators, "_FORMS", forms)
    text = CONVNET.replace("= Relu(h)", "= com.microsoft.Gelu(h)").replace(
        "b = Relu(a)", "[fine] b = com.microsoft.QuickGelu(a)"
    )
    unit = unit_of(model_of(text, CONSTANTS).SerializeToString())
    made, note = in_plain_operators(unit, SAMPLES)
    assert "(Gelu): ONNX's give other answers" in note
    kinds = operators(onnx.load_model_from_string(made.onnx.proto))
    assert "com.microsoft.Gelu" in kinds
    assert "com.microsoft.QuickGelu" not in kinds


def test_in_a_branch_they_stay() -> None:
    text = """
    g (float[N,8] x) => (float[N,4] y) {
      s = ReduceSum<keepdims=0>(x) c = Greater(s, zero)
      b = If(c) <
        then_branch = t () => (float[N,8] u) { [inner] u = com.microsoft.Gelu(x) },
        else_branch = e () => (float[N,8] v) { v = Identity(x) }
      >
      [outer] d = com.microsoft.Gelu(b) y = MatMul(d, w84)
    }
    """
    constants = {"zero": np.float32(0), "w84": DRAW.normal(size=(8, 4)).astype(np.float32)}
    unit = unit_of(model_of(text, constants).SerializeToString())
    made, note = in_plain_operators(unit, SAMPLES[:, 0, 0])
    assert note.count("(Gelu)") == 1
    assert "inner (Gelu): it stands in a branch or a loop" in note
    assert "com.microsoft.Gelu" not in operators(onnx.load_model_from_string(made.onnx.proto))
