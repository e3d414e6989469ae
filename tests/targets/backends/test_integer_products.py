"""Products that may overflow in 16 bits are found by what is computed, however it is written."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from check_pass import parse
from weighted_products import (
    INTEGER_LAYERS,
    LAYERS,
    OVER,
    PAIRED,
    SCALES,
    WEIGHTS,
    constant_first,
    flagged,
    integer,
    model,
    weighted,
)

from rtc.calibration.oracle import session
from rtc.targets.backends import integer_products, x86

APART = np.array([[100], [-100]] * 4, np.int8) * np.ones((1, 4), np.int8)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("form", WEIGHTS)
def test_weights_are_recognised_in_every_form(form: str, layer: str) -> None:
    assert flagged(weighted(layer, form, OVER))
    computed = form in ("cast and mul", "mul behind")
    if layer not in ("first", "Einsum") and not computed:  # there, weights have no known order
        assert not flagged(weighted(layer, form, PAIRED))
        assert not flagged(weighted(layer, form, APART))
    if layer != "first":
        assert not flagged(weighted(layer, form, (PAIRED * 0.6).astype(np.int8)))


@pytest.mark.parametrize("activation", ["uint8", "int8"])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("form", WEIGHTS)
def test_the_reference_is_right_in_every_form(form: str, layer: str, activation: str) -> None:
    rng = np.random.default_rng(2)
    weights = rng.integers(-128, 128, (8, 4)).astype(np.int8)
    x = rng.standard_normal((5, 8)).astype(np.float32) * 3
    info = np.iinfo(activation)
    quantised = np.clip(np.rint(x / np.float32(0.02)), info.min, info.max).astype(np.int64)
    got = session(weighted(layer, form, weights, activation), threads=1).run(None, {"x": x})[0]
    scale = 0.02 * 0.01 * (0.01 if form == "mul behind" else 1)
    expected = quantised @ weights.astype(np.int64) * scale
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=np.abs(expected).max() * 1e-6)


@pytest.mark.parametrize(
    ("layer", "by_row"),
    [
        ("p = com.microsoft.QGemm <transB = 1> (q, xs, xz, w, s8, z8, , ys, xz)", True),
        ("p = com.microsoft.QGemm (q, xs, xz, w, s8, z8, , ys, xz)", False),
        ("p = QLinearMatMul (q, xs, xz, w, s8, z8, ys, xz)", False),
        ("m = MatMulInteger (w, w, z8, wz) p = Cast <to = 2> (m)", True),
    ],
)
def test_zero_points_are_taken_from_the_channel_that_they_are_of(layer: str, by_row: bool) -> None:
    weights = np.random.default_rng(3).integers(-90, 90, (8, 8)).astype(np.int8)
    zeros = np.arange(8).astype(np.int8)
    scales = np.full(8, 0.01, np.float32)
    proto = model(f"{layer} y = DequantizeLinear (p, ys, xz)", w=weights, z8=zeros, s8=scales)
    (found,) = integer_products.products(onnx.load_model_from_string(proto))
    operand = found.first if "MatMulInteger" in layer else found.second
    assert operand is not None
    expected = weights.astype(np.int16) - (zeros[:, None] if by_row else zeros[None, :])
    np.testing.assert_array_equal(operand.centred, expected)


@pytest.mark.parametrize("layer", INTEGER_LAYERS)
def test_weights_of_operators_on_integers(layer: str) -> None:
    assert flagged(integer(layer, OVER))
    assert not flagged(integer(layer, PAIRED))
    assert not flagged(integer(layer, APART))


def test_uint8_weights_overflow_where_they_are_shifted() -> None:
    proto = weighted("MatMul", "unsigned", OVER)
    assert flagged(proto)
    assert not flagged(proto, unsigned=False)


def test_float_weights_are_no_integers() -> None:
    weights = OVER.astype(np.float32)
    assert not flagged(model("y = MatMul (xd, w)", w=weights))
    assert not flagged(
        model("h = Cast <to = 10> (w) c = Cast <to = 1> (h) y = MatMul (xd, c)", w=weights)
    )


DYNAMIC = "vq = QuantizeLinear (v, ws, {zero}) {body}"


@pytest.mark.parametrize(
    "body",
    [
        "vd = DequantizeLinear (vq, ws, {zero}) y = MatMul (xd, vd)",
        """vt = Transpose (vq) vd = DequantizeLinear (vt, ws, {zero}) vr = Transpose (vd)
        y = MatMul (xd, vr)""",
        """vd = DequantizeLinear (vq, ws, {zero}) vr = Relu (vd) vm = Mul (vr, ws)
        y = MatMul (xd, vm)""",
        "m = MatMulInteger (q, vq, xz, {zero}) y = Cast <to = 1> (m)",
        "p = QLinearMatMul (q, xs, xz, vq, ws, {zero}, ys, xz) y = DequantizeLinear (p, ys, xz)",
    ],
)
def test_a_product_of_two_activations_may_overflow(body: str) -> None:
    for zero, signed in (("wz", True), ("uz", False)):
        lines = DYNAMIC.format(zero=zero, body=body.format(zero=zero))
        proto = model(lines, inputs=", float[8,M] v")
        assert flagged(proto)
        assert flagged(proto, unsigned=False) == signed


def test_a_float_product_behind_integer_layers_does_not() -> None:
    body = (
        "wd = DequantizeLinear (w, ws, wz) a = MatMul (xd, wd) b = Transpose (a) y = MatMul (b, a)"
    )
    assert not flagged(model(body, w=PAIRED))


def test_products_in_branches_and_functions_are_seen() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
    g (bool[1] c, float[2,8] x) => (float[2,4] y) <float s = {1.0}> {
        wd = DequantizeLinear (w, s)
        y = If (c) <
            then_branch = t () => (float[2,4] u) { u = own.Product (x, w, s) },
            else_branch = e () => (float[2,4] v) { v = MatMul (x, wd) }
        >
    }
    <domain: "own", opset_import: ["" : 17]>
    Product (p, q, s) => (r) { qd = DequantizeLinear (q, s) r = MatMul (p, qd) }"""
    found = onnx.parser.parse_model(text)
    for weights, count in ((OVER, 2), (PAIRED, 0)):
        del found.graph.initializer[1:]
        found.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
        assert len(x86.overflowing(found)) == count


def test_weights_that_cannot_be_evaluated_may_overflow() -> None:
    body = "wd = DequantizeLinear (w, ws, wz) k = own.Unknown (wd) y = MatMul (xd, k)"
    found = onnx.load_model_from_string(model(body, w=(PAIRED * 0.1).astype(np.int8)))
    found.opset_import.append(onnx.helper.make_opsetid("own", 1))
    assert x86.overflowing(found)


@pytest.mark.parametrize(
    ("kind", "most", "overflows"),
    [("uint8", 128, False), ("uint8", 129, True), ("int8", 0, False), ("int8", 1, True)],
)
def test_a_constant_first_operand_is_judged_as_the_uint8_that_is_multiplied(
    kind: str, most: int, overflows: bool
) -> None:
    """Twice 128 · -128 is all that fits, and int8 is shifted by 128."""
    assert flagged(constant_first(kind, most)) == overflows


@pytest.mark.parametrize(
    "body",
    [
        "wd = Mul (d, f)",  # half of 100 is the 50 beside it, and 100 what is multiplied
        "s, u = Split <axis = 0, num_outputs = 2> (d) v = Sub (s, u) wd = Concat <axis = 0> (v, s)",
        "t = Abs (d) wd = Neg (t)",
        "t = Relu (d) wd = Max (t, d)",
    ],
)
def test_constants_that_are_computed_with_are_in_no_order(body: str) -> None:
    weights = np.tile(np.array([[100], [50]], np.int8), (4, 4))
    factors = np.tile(np.array([[0.5], [1]], np.float32), (4, 1))
    proto = model(
        f"d = DequantizeLinear (w, ws, wz) {body} y = MatMul (xd, wd)",
        w=weights,
        f=factors,
    )
    (product,) = integer_products.products(onnx.load_model_from_string(proto))
    assert product.second is not None
    assert not product.second.in_order
    assert flagged(proto)


def test_deep_and_wide_graphs_are_walked_once() -> None:
    """A thousand nodes in a row, and 2⁴⁰ ways from the product back to the input."""
    rows = "".join(f"r{i + 1} = Relu (r{i}) " for i in range(1500))
    joins = "".join(f"t{i} = Transpose (c{i}) c{i + 1} = Max (c{i}, t{i}) " for i in range(40))
    ways = "".join(
        f"b{i} = Relu (a{i}) a{i + 1} = Concat <axis = 0> (a{i}, b{i}) " for i in range(40)
    )
    wide = f"r0 = Relu (xd) {rows} a0 = Identity (r1500) {ways} y = MatMul (a40, wd)"
    for weights, overflows in ((OVER, True), (PAIRED, False)):
        chain = "".join(f"v{i + 1} = Neg (v{i}) " for i in range(1500))
        body = f"v0 = DequantizeLinear (w, ws, wz) {chain} wd = Identity (v1500) {wide}"
        assert flagged(model(body, w=weights)) == overflows
    square = f"c0 = DequantizeLinear (w, ws, wz) {joins} y = MatMul (xd, c40)"
    assert flagged(model(square, w=np.full((8, 8), 100, np.int8)))


MOVES = ["Transpose", "flip", "split", "double"]


@pytest.mark.parametrize("seed", range(40))
def test_what_is_found_is_what_can_saturate(seed: int) -> None:
    """Random weights, moved about, against every extreme activation: exact both ways."""
    rng = np.random.default_rng(seed)
    weights = rng.integers(-64, 65, (16, 16)).astype(np.int8)
    weights[tuple(rng.integers(0, 16, 2))] = rng.choice([-128, -100, 80, 127])
    body, tensor = [], "w"
    at = rng.integers(0, 4)  # where it is dequantised
    for step in range(4):
        if step == at:
            body.append(f"d{step} = DequantizeLinear ({tensor}, one, wz)")
            tensor = f"d{step}"
        lines, tensor = _moved(str(rng.choice(MOVES)), tensor, f"m{step}")
        body += lines
    text = f"""g (float[N,K] x) => (float[N,M] y, float[A,B] {tensor})
    <float one = {{1.0}}, int8 wz = {{0}}> {{ {" ".join(body)} y = MatMul (x, {tensor}) }}"""
    proto = onnx.load_model_from_string(parse(text, w=weights).onnx.proto)
    seen = onnx.ModelProto.FromString(proto.SerializeToString())
    del seen.graph.node[-1], seen.graph.output[0], seen.graph.input[0]
    final = session(seen.SerializeToString(), 1).run(None, {})[0].astype(int)
    sums = [
        a * 255 * f + b * 255 * s
        for f, s in zip(final[::2], final[1::2], strict=False)
        for a in (0, 1)
        for b in (0, 1)
    ]
    last = final[-1] * 255
    worst = np.array([*sums, last])
    assert bool(x86.overflowing(proto)) == bool(((worst > 32767) | (worst < -32768)).any())


def _moved(how: str, tensor: str, name: str) -> tuple[list[str], str]:
    lines = {
        "Transpose": [f"{name} = Transpose ({tensor})"],
        "flip": [
            f"{name}a = Constant <value = int64[1] {{-1}}> ()",
            f"{name}e = Constant <value = int64[1] {{-1000}}> ()",
            f"{name}x = Constant <value = int64[1] {{0}}> ()",
            f"{name} = Slice ({tensor}, {name}a, {name}e, {name}x, {name}a)",
        ],
        "split": [
            f"{name}0, {name}1 = Split <axis = 0, num_outputs = 2> ({tensor})",
            f"{name} = Concat <axis = 1> ({name}1, {name}0)",
        ],
        "double": [f"{name} = Concat <axis = 0> ({tensor}, {tensor})"],
    }
    return lines[how], name


def test_integers_that_leave_a_branch_are_seen() -> None:
    unit = parse(
        f"""g (float[N,8] x, bool c) => (float[N,4] y) <{SCALES}> {{
        q = QuantizeLinear (x, ws, uz)
        xd = DequantizeLinear (q, ws, uz)
        wd = If (c) <
            then_branch = t () => (float[8,4] u) {{ u = DequantizeLinear (w, ws, wz) }},
            else_branch = e () => (float[8,4] v) {{ v = Identity (f) }}
        >
        y = MatMul (xd, wd)
    }}""",
        w=np.full((8, 4), 127, np.int8),
        f=np.ones((8, 4), np.float32),
    )
    (product,) = integer_products.products(onnx.load_from_string(unit.onnx.proto))
    assert product.first is not None
    assert product.second is not None
    assert product.first.kinds == {integer_products.UINT8}
    assert product.second.kinds == {integer_products.INT8}
