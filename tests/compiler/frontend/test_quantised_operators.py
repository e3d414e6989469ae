"""Every quantised operator against ONNX Runtime's own kernel for it: a step apart at most."""

from __future__ import annotations

import numpy as np
import pytest
from one_operator import answers, model_of, operators, written

from rtc.compiler.core.exact_products import write_out
from rtc.compiler.core.parts import write_parts
from rtc.compiler.core.running import unoptimised
from rtc.compiler.frontend.quantised_operators import QUANTISED

DRAW = np.random.default_rng(0)
CONSTANTS = {
    "xs": np.float32(0.021),
    "xz": np.uint8(120),
    "ys": np.float32(0.094),
    "yz": np.uint8(131),
    "zs": np.float32(0.013),
    "zz": np.uint8(90),
    "one_s": np.array([0.021], np.float32),
    "one_z": np.array([120], np.uint8),
    "k": DRAW.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8),
    "ks": np.array([0.01, 0.02, 0.015, 0.007], np.float32),
    "kz": np.zeros(4, np.int8),
    "kb": DRAW.integers(-900, 900, 4).astype(np.int32),
    "k1s": np.float32(0.011),
    "k1z": np.int8(0),
    "w": DRAW.integers(-127, 128, (8, 5)).astype(np.int8),
    "wt": DRAW.integers(-127, 128, (5, 8)).astype(np.int8),
    "ws": DRAW.uniform(0.005, 0.02, 5).astype(np.float32),
    "wz": np.zeros(5, np.int8),
    "wb": DRAW.integers(-900, 900, 5).astype(np.int32),
    "s": DRAW.integers(0, 256, (1, 8)).astype(np.uint8),
    "c": DRAW.integers(0, 2, (1, 8)).astype(bool),
}
SHARE = 0.15
"""Of the answers that may be a step apart: ONNX Runtime's kernels round ties, and a softmax's
quotients, in ways of their own."""
IMAGE = DRAW.normal(size=(2, 3, 8, 8)).astype(np.float32)
ROWS = DRAW.normal(size=(6, 8)).astype(np.float32)
ON_IMAGES = """
g (float[N,3,8,8] x) => (float[N,C,H,W] y) {{
  q = QuantizeLinear(x, xs, xz) {} y = DequantizeLinear(r, ys, yz)
}}
"""
ON_ROWS = """
g (float[N,8] x) => (float[N,M] y) {{
  q = QuantizeLinear(x, xs, xz) {} y = DequantizeLinear(r, ys, yz)
}}
"""
ON_ROWS_FLOAT = "g (float[N,8] x) => (float[N,M] y) {{ q = QuantizeLinear(x, xs, xz) {} }}"
LAST = "t = Transpose<perm=[0,2,3,1]>(q)"
BACK = "r = Transpose<perm=[0,3,1,2]>(l)"
OF_IMAGES = {
    "conv": "[f] r = QLinearConv<pads=[1,1,1,1]>(q, xs, xz, k, ks, kz, ys, yz, kb)",
    "conv_strided": "[f] r = QLinearConv<strides=[2,2]>(q, xs, xz, k, k1s, k1z, ys, yz)",
    "conv_of_ones": "[f] r = QLinearConv(q, one_s, one_z, k, ks, kz, ys, yz, kb)",
    "conv_last": f"{LAST} [f] l = com.microsoft.QLinearConv<channels_last=1, pads=[1,1,1,1]>"
    f"(t, xs, xz, k, ks, kz, ys, yz, kb) {BACK}",
    "pool": "[f] r = com.microsoft.QLinearAveragePool<kernel_shape=[3,3], strides=[2,2]>"
    "(q, xs, xz, ys, yz)",
    "global": "[f] r = com.microsoft.QLinearGlobalAveragePool(q, xs, xz, ys, yz)",
    "global_last": f"{LAST} [f] l = com.microsoft.QLinearGlobalAveragePool<channels_last=1>"
    f"(t, xs, xz, ys, yz) {BACK}",
    "concat": "[f] r = com.microsoft.QLinearConcat<axis=1>(ys, yz, q, xs, xz, q, zs, zz)",
}
OF_ROWS = {
    "matmul": "[f] r = QLinearMatMul(q, xs, xz, w, ws, wz, ys, yz)",
    "matmul_one_scale": "[f] r = QLinearMatMul(q, xs, xz, w, k1s, k1z, ys, yz)",
    "gemm": "[f] r = com.microsoft.QGemm<transB=1>(q, xs, xz, wt, ws, wz, wb, ys, yz)",
    "gemm_scaled": "[f] r = com.microsoft.QGemm<alpha=0.5>(q, xs, xz, w, k1s, k1z, wb, ys, yz)",
    "add": "[f] r = com.microsoft.QLinearAdd(q, xs, xz, s, zs, zz, ys, yz)",
    "mul": "[f] r = com.microsoft.QLinearMul(q, xs, xz, s, zs, zz, ys, yz)",
    "sigmoid": "[f] r = com.microsoft.QLinearSigmoid(q, xs, xz, ys, yz)",
    "leaky": "[f] r = com.microsoft.QLinearLeakyRelu<alpha=0.2>(q, xs, xz, ys, yz)",
    "softmax": "[f] r = com.microsoft.QLinearSoftmax<axis=1, opset=13>(q, xs, xz, zs, zz)",
    "where": "[f] r = com.microsoft.QLinearWhere(c, q, xs, xz, s, zs, zz, ys, yz)",
}


def _check(text: str, feed: np.ndarray, step: float) -> None:
    model = model_of(text, CONSTANTS)
    made = written(model, QUANTISED)
    assert not any("QLinear" in name or "QGemm" in name for name in operators(made))
    exact = unoptimised(write_out(model.SerializeToString()))
    wanted, seen = exact.run(None, {"x": feed})[0], answers(made, {"x": feed})[0]
    assert wanted.shape == seen.shape
    off = np.abs(wanted - seen)
    assert off.max() <= step * 1.001
    assert (off > step / 2).mean() < SHARE


@pytest.mark.parametrize("case", OF_IMAGES)
def test_on_images(case: str) -> None:
    _check(ON_IMAGES.format(OF_IMAGES[case]), IMAGE, 0.094)


@pytest.mark.parametrize("case", OF_ROWS)
def test_on_rows(case: str) -> None:
    _check(ON_ROWS.format(OF_ROWS[case]), ROWS, 0.094)


def test_a_product_that_stays_float() -> None:
    gemm = "[f] y = com.microsoft.QGemm<transB=1>(q, xs, xz, wt, ws, wz, wb)"
    _check(ON_ROWS_FLOAT.format(gemm), ROWS, 1e-4)


def test_a_softmax_over_several_axes_is_left() -> None:
    softmax = "[f] r = com.microsoft.QLinearSoftmax<axis=1, opset=12>(q, xs, xz, ys, yz)"
    left = write_parts(model_of(ON_IMAGES.format(softmax), CONSTANTS), QUANTISED).left
    assert left == ("f (QLinearSoftmax): its axis is the first of several that it flattens",)


def test_a_scale_that_is_computed_may_be_one_number() -> None:
    added = "two = Add(zs, zs) [f] r = com.microsoft.QLinearAdd(q, xs, xz, s, two, zz, ys, yz)"
    _check(ON_ROWS.format(added), ROWS, 0.094)
