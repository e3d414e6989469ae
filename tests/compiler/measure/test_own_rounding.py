"""What a graph computes without its rounding, and with that of tensor cores."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import small_models

from rtc.calibration.oracle import Oracle
from rtc.compiler.core.arrays import Array
from rtc.compiler.measure.own_rounding import rounds, unrounded, with_tf32

HEAD = '<ir_version: 10, opset_import: ["" : 20]>\n'
X = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)


def proto(text: str) -> bytes:
    return bytes(onnx.parser.parse_model(HEAD + text).SerializeToString())


def run(model: bytes) -> Array:
    with Oracle(model) as oracle:
        return oracle.run(X)["y"]


def test_a_model_that_does_not_round_is_what_it_is() -> None:
    model = small_models.linear().onnx.proto
    assert not rounds(model)
    assert unrounded(model) == model


@pytest.mark.parametrize(
    ("kind", "zero", "low", "high"),
    [("int8", 0, -1.28, 1.27), ("uint8", 0, 0.0, 2.55), ("int8", -128, 0.0, 2.55)],
)
def test_values_are_clipped_as_a_q_clips_them_and_not_rounded(kind, zero, low, high) -> None:
    model = proto(
        f"""g (float[n,6] x) => (float[n,6] y)
        <float s = {{0.01}}, {kind} z = {{{zero}}}, int64[2] shape = {{-1, 6}}> {{
            q = QuantizeLinear (x, s, z)
            r = Reshape (q, shape)
            y = DequantizeLinear (r, s, z)
        }}"""
    )
    assert rounds(model)
    bare = unrounded(model)
    assert bare is not None
    np.testing.assert_allclose(run(bare), np.clip(X, low, high), rtol=1e-6)
    assert 0.002 < np.abs(run(model) - run(bare)).max() <= 0.00501  # half a step


def test_weights_that_are_integers_stay_what_they_stand_for() -> None:
    model = proto(
        """g (float[n,6] x) => (float[n,2] y)
        <float[2] s = {0.5, 0.25}, int8[2] z = {0, 0},
         int8[6,2] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}> {
            d = DequantizeLinear <axis = 1> (w, s, z)
            y = MatMul (x, d)
        }"""
    )
    bare = unrounded(model)
    assert bare is not None
    wanted = X @ (np.arange(1, 13, dtype=np.float32).reshape(6, 2) * np.float32([0.5, 0.25]))
    np.testing.assert_allclose(run(bare), wanted, rtol=1e-5)


def test_weights_that_are_rounded_by_channel_are_taken_as_they_are() -> None:
    model = proto(
        """g (float[n,6] x) => (float[n,2] y)
        <float[2] s = {0.5, 0.25}, int8[2] z = {0, 0},
         float[6,2] w = {1.1, 2.1, 3.1, 4.1, 5.1, 6.1, 7.1, 8.1, 9.1, 10.1, 90, 90}> {
            q = QuantizeLinear <axis = 1> (w, s, z)
            d = DequantizeLinear <axis = 1> (q, s, z)
            y = MatMul (x, d)
        }"""
    )
    bare = unrounded(model)
    assert bare is not None
    weights = np.array([1.1, 2.1, 3.1, 4.1, 5.1, 6.1, 7.1, 8.1, 9.1, 10.1, 63.5, 31.75])
    np.testing.assert_allclose(run(bare), X @ weights.reshape(6, 2), rtol=1e-4)


@pytest.mark.parametrize(
    "body",
    [
        "q = QuantizeLinear (x, s, z)\n y = DequantizeLinear (q, t, z)",
        "q, u, v = DynamicQuantizeLinear (x)\n y = DequantizeLinear (q, u, v)",
        """c = ReduceMax <keepdims = 0> (x)
        b = Greater (c, s)
        y = If (b) <
            then_branch = a () => (float[n,6] i)
                { p = QuantizeLinear (x, s, z)  i = DequantizeLinear (p, s, z) },
            else_branch = e () => (float[n,6] j) { j = Identity (x) }
        >""",
    ],
)
def test_where_the_rounding_cannot_be_taken_out_nothing_is_given(body: str) -> None:
    head = "g (float[n,6] x) => (float[n,6] y) <float s = {0.1}, float t = {0.2}, uint8 z = {3}>"
    model = proto(f"{head} {{ {body} }}")
    assert rounds(model)
    assert unrounded(model) is None


def test_products_take_eleven_bits_of_what_they_multiply() -> None:
    weights = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)
    text = "g (float[n,6] x) => (float[n,4] y) { y = MatMul (x, w) }"
    model = onnx.parser.parse_model(HEAD + text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    found = run(with_tf32(model.SerializeToString()))

    def eleven(values: Array) -> Array:
        mantissa, exponent = np.frexp(values.astype(np.float64))
        return np.ldexp(np.round(mantissa * 2**11), exponent - 11)

    np.testing.assert_allclose(found, eleven(X) @ eleven(weights), rtol=1e-5, atol=1e-6)
    assert np.abs(found - X @ weights).max() > 1e-4
