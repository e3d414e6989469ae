"""Half types rounded as a runtime rounds them."""

import numpy as np
import pytest
from check_pass import parse
from rounded_models import run

from rtc.calibration.oracle import Oracle, session, with_outputs
from rtc.calibration.rounding import emulate_half, widened
from rtc.compiler.core.operators import HALF_KEY

TYPES = {"fp16": 10, "bf16": 16}


def in_half(kind, body):
    return parse(f"""g (float[N] x) => (float[N] y) <float big = {{2048.0}}, float one = {{1.0}}> {{
        h = Cast<to = {TYPES[kind]}>(x)
        b = Cast<to = {TYPES[kind]}>(big)
        o = Cast<to = {TYPES[kind]}>(one)
        {body}
        y = Cast<to = 1>(r)
    }}""")


@pytest.mark.parametrize(("kind", "expected"), [("fp16", [0, 4, 8]), ("bf16", [0, 0, 16])])
def test_every_operator_rounds(kind, expected):
    """Above 2048 FP16 has steps of 2 and BF16 of 16, ties go to even; float32 would give x + 1."""
    unit = in_half(kind, "s = Add(h, b)\n t = Add(s, o)\n r = Sub(t, b)")
    assert run(unit, [0, 3, 9])["y"].tolist() == expected


def test_fp16_overflows_and_bf16_does_not():
    body = "s = Mul(h, b)\n r = Div(s, b)"
    assert run(in_half("fp16", body), [100.0])["y"].tolist() == [np.inf]
    assert run(in_half("bf16", body), [100.0])["y"].tolist() == [100.0]


def test_fp16_ends_where_it_does_and_keeps_its_small_numbers():
    """65520 is the first that rounds to infinity; 2^-24 is the last step, and half of it is 0."""
    values = [65504.0, 65519.0, 65520.0, -65520.0, 2**-24, 1.5 * 2**-24, 2**-25, 1e-12, 1e-5]
    step = 2.0**-24
    expected = [65504.0, 65504.0, np.inf, -np.inf, step, 2 * step, 0.0, 0.0, 168 * step]
    assert run(in_half("fp16", "r = Identity(h)"), values)["y"].tolist() == expected


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_a_tensor_in_half_is_rounded_where_it_is_looked_at_too(kind):
    """As an output its type is left to be inferred."""
    unit = in_half(kind, "s = Add(h, b)\n t = Add(s, o)\n r = Sub(t, b)")
    emulated = emulate_half(with_outputs(unit.onnx.proto, ["s"]))
    name = widened(emulated, ["s"])["s"]
    run = session(with_outputs(emulated, [name]))
    (seen,) = run.run([name], {"x": np.array([3.0], np.float32)})
    assert seen.tolist() == [{"fp16": 2052.0, "bf16": 2048.0}[kind]]


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_convolutions_round_their_result_and_weights(kind):
    unit = parse(
        f"""g (float[N,1,3,3] x) => (float[N,1,3,3] y) {{
        h = Cast<to = {TYPES[kind]}>(x)
        v = Cast<to = {TYPES[kind]}>(w)
        c = Conv<pads = [1,1,1,1]>(h, v)
        y = Cast<to = 1>(c)
    }}""",
        w=np.random.default_rng(0).standard_normal((1, 1, 3, 3)).astype(np.float32),
    )
    values = np.random.default_rng(1).standard_normal((2, 1, 3, 3)).astype(np.float32)
    result = run(unit, values)["y"]
    half = _half_type(kind)
    np.testing.assert_array_equal(result, result.astype(half).astype(np.float32))


def test_half_outputs_and_inputs_keep_their_type():
    unit = parse("g (float16[N,4] x) => (float16[N,4] y) { a = Relu(x)\n y = Neg(a) }")
    with Oracle(unit.onnx.proto) as oracle:
        result = oracle.run(np.ones((2, 4), np.float16))["y"]
    assert result.dtype == np.float16
    assert result.tolist() == [[-1.0] * 4] * 2


def test_a_float_model_is_not_touched():
    unit = parse("g (float[N] x) => (float[N] y) { y = Neg(x) }")
    assert emulate_half(unit.onnx.proto) == unit.onnx.proto


def test_a_mask_of_the_lowest_number_is_finite_where_the_runtime_takes_bf16_for_all():
    """OpenVINO keeps it so; rounded to BF16 it is -inf, and a row masked throughout NaN."""
    mask = np.full(2, np.finfo(np.float32).min, np.float32)
    unit = parse(
        """g (float[N,2] x) => (float[N,2] y) {
        a = Add(x, mask)
        y = Softmax(a)
    }""",
        mask=mask,
    )
    assert run(_asking_for(unit, "bf16"), [[1.0, 2.0]])["y"].tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_a_half_type_asked_for_in_the_metadata_rounds_inputs_weights_and_results(kind):
    weight = np.array([[1.0009765625 + 2**-12]], np.float32)
    unit = parse("g (float[N,1] x) => (float[N,1] y) { y = MatMul(x, w) }", w=weight)
    half = _half_type(kind)
    value = np.array([[1 / 3]], np.float32)
    expected = value.astype(half).astype(np.float32) * weight.astype(half).astype(np.float32)
    result = run(_asking_for(unit, kind), value)["y"]
    np.testing.assert_array_equal(result, expected.astype(half).astype(np.float32))
    assert result != value @ weight


def test_integer_layers_are_not_rounded_to_the_half_type():
    body = """
        q = QuantizeLinear(x, s, z)
        d = DequantizeLinear(q, s, z)
        w = DequantizeLinear(v, s)
        c = MatMul(d, w)
        r = Relu(c)
        p = QuantizeLinear(r, t, z)
        y = DequantizeLinear(p, t, z)"""
    unit = parse(
        f"""g (float[N,1] x) => (float[N,1] y)
        <float s = {{0.0137}}, float t = {{0.00317}}, uint8 z = {{0}}, int8[1,1] v = {{99}}>
        {{ {body} }}"""
    )
    values = np.linspace(0, 3, 50, dtype=np.float32)[:, None]
    float_result = run(unit, values)["y"]
    np.testing.assert_array_equal(run(_asking_for(unit, "bf16"), values)["y"], float_result)


def _half_type(kind):
    import ml_dtypes

    return np.float16 if kind == "fp16" else ml_dtypes.bfloat16


def _asking_for(unit, kind):
    import onnx
    from check_pass import unit_of

    model = onnx.load_model_from_string(unit.onnx.proto)
    onnx.helper.set_model_props(model, {HALF_KEY: kind})
    return unit_of(model.SerializeToString())
