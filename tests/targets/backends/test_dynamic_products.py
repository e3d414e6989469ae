"""Dynamically quantised products in float, against ONNX Runtime's own kernels for them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from one_operator import answers, model_of, operators

from rtc.compiler.core.exact_products import write_out
from rtc.compiler.core.running import unoptimised
from rtc.compiler.core.target import BuildRequest
from rtc.targets.backends.dynamic_products import in_float
from rtc.targets.loader import backend, profile

DRAW = np.random.default_rng(0)
CONSTANTS = {
    "w": DRAW.integers(-127, 128, (12, 5)).astype(np.int8),
    "wu": DRAW.integers(0, 256, (12, 5)).astype(np.uint8),
    "wz": np.array(7, np.int8),
    "wuz": DRAW.integers(100, 150, 5).astype(np.uint8),
    "ws": DRAW.uniform(0.005, 0.02, 5).astype(np.float32),
    "b": DRAW.normal(size=5).astype(np.float32),
    "k": DRAW.integers(-127, 128, (4, 3, 2, 2)).astype(np.int8),
    "kz": np.array(0, np.int8),
    "scale": np.float32(0.01),
    "flat": np.array([0, -1]),
    "none": np.float32(0),
}
ON_ROWS = "g (float[N,12] x) => (float[N,5] y) {{ {} }}"
QUANTISED = "q, s, z = DynamicQuantizeLinear(x)"
CASES = {
    "integer": f"{QUANTISED} [p] i = MatMulInteger(q, w, z) f = Cast<to=1>(i) y = Mul(f, s)",
    "zeros": f"{QUANTISED} [p] i = MatMulInteger(q, wu, z, wuz) f = Cast<to=1>(i) y = Mul(f, s)",
    "no zeros": f"{QUANTISED} [p] i = MatMulInteger(q, w) f = Cast<to=1>(i) y = Mul(f, s)",
    "to float": f"{QUANTISED} [p] y = com.microsoft.MatMulIntegerToFloat(q, w, s, ws, z, wz, b)",
    "whole": "[p] y = com.microsoft.DynamicQuantizeMatMul(x, wu, ws, wuz, b)",
    "whole plain": "[p] y = com.microsoft.DynamicQuantizeMatMul(x, w, ws)",
    "flat": f"n = Mul(x, none) {QUANTISED.replace('(x)', '(n)')} [p] i = MatMulInteger(q, w, z)"
    " f = Cast<to=1>(i) m = Mul(f, s) y = Add(m, b)",
}
CONV = """
g (float[N,3,6,6] x) => (float[N,64] y) {
  q, s, z = DynamicQuantizeLinear(x)
  [p] i = ConvInteger<pads=[1,1,0,0], strides=[2,2], kernel_shape=[2,2]>(q, k, z, kz)
  f = Cast<to=1>(i) m = Mul(f, s) c = Mul(m, scale) v = MaxPool<kernel_shape=[2,2]>(c)
  y = Flatten(v)
}
"""
ROWS = (DRAW.normal(size=(6, 12)) * np.linspace(0.1, 3, 6)[:, None]).astype(np.float32)
IMAGE = DRAW.normal(size=(2, 3, 6, 6)).astype(np.float32)


def _models() -> dict[str, tuple[str, np.ndarray]]:
    rows = {name: (ON_ROWS.format(body), ROWS) for name, body in CASES.items()}
    return rows | {"conv": (CONV.replace("float[N,64]", "float[N,M]"), IMAGE)}


@pytest.mark.parametrize("case", _models())
def test_they_compute_the_same_in_float(case: str) -> None:
    text, feed = _models()[case]
    model = model_of(text, CONSTANTS)
    exact = unoptimised(write_out(model.SerializeToString()))
    (wanted,) = exact.run(None, {"x": feed})
    (note,) = in_float(model)
    assert "in float" in note
    assert not any("Integer" in name or "Dynamic" in name for name in operators(model))
    assert [node.op_type for node in model.graph.node if node.name == "p"] in (["MatMul"], ["Conv"])
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_allclose(answers(model, {"x": feed})[0], wanted, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("case", _models())
def test_tensorrt_rtx_builds_them(case: str) -> None:
    model = model_of(_models()[case][0], CONSTANTS)
    built = backend("tensorrt_rtx").build(
        model.SerializeToString(), BuildRequest(profile("rtx4060ti"), (1, 2, 4))
    )
    assert "round and multiply in float" in built.notes[0]


def test_a_model_without_them_is_left() -> None:
    model = model_of("g (float[N,12] x) => (float[N,12] y) { y = Relu(x) }", {})
    before = model.SerializeToString()
    assert in_float(model) == ()
    assert model.SerializeToString() == before
