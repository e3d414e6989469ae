"""Products that may overflow in 16 bits are found by what is computed, however it is written."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from check_pass import parse

from rtc.calibration.oracle import session
from rtc.compiler.core.errors import ModelError
from rtc.compiler.core.target import BuildRequest
from rtc.targets.backends import integer_products, x86
from rtc.targets.backends import onnxruntime as ort_backend
from rtc.targets.loader import backend, profile

REQUEST = BuildRequest(profile("cpu"), (1, 1, 4), threads=1)
SCALES = "float ws = {0.01}, int8 wz = {0}, uint8 uz = {128}"

WEIGHTS = {
    # lines that make `wd` (8, 4), float, of the integers `w` (8, 4), int8
    "stored": "wd = DequantizeLinear (w, ws, wz)",
    "no zero point": "wd = DequantizeLinear (w, ws)",
    "constant node": "wd = DequantizeLinear (w, ws, wz)",
    "identity": "i = Identity (w) wd = DequantizeLinear (i, ws, wz)",
    "identity behind": "i = DequantizeLinear (w, ws, wz) wd = Identity (i)",
    "transpose": "t = Transpose (w) u = Transpose (t) wd = DequantizeLinear (u, ws, wz)",
    "transpose behind": "t = Transpose (w) u = DequantizeLinear (t, ws, wz) wd = Transpose (u)",
    "reshape": "s = Constant <value = int64[2] {8, 4}> () f = Flatten <axis = 0> (w) "
    "d = DequantizeLinear (f, ws, wz) wd = Reshape (d, s)",
    "squeeze": "a = Constant <value = int64[1] {0}> () u = Unsqueeze (w, a) "
    "d = DequantizeLinear (u, ws, wz) wd = Squeeze (d, a)",
    "slice": "c = Concat <axis = 0> (w, w) b = Constant <value = int64[1] {8}> () "
    "e = Constant <value = int64[1] {16}> () d = DequantizeLinear (c, ws, wz) wd = Slice (d, b, e)",
    "cast and mul": "c = Cast <to = 1> (w) wd = Mul (c, ws)",
    "mul behind": "d = DequantizeLinear (w, ws, wz) wd = Mul (d, ws)",
    "from floats": "c = Cast <to = 1> (w) f = Mul (c, ws) r = QuantizeLinear (f, ws, wz) "
    "wd = DequantizeLinear (r, ws, wz)",
    "twice": "d = DequantizeLinear (w, ws, wz) r = QuantizeLinear (d, ws, wz) "
    "wd = DequantizeLinear (r, ws, wz)",
    "unsigned": "c = Cast <to = 6> (w) h = Constant <value = int32 {128}> () s = Add (c, h) "
    "u = Cast <to = 2> (s) wd = DequantizeLinear (u, ws, uz)",
}
LAYERS = {
    "MatMul": "y = MatMul (xd, wd)",
    "Gemm": "y = Gemm (xd, wd)",
    "transB": "wt = Transpose (wd) y = Gemm <transB = 1> (xd, wt)",
    "first": "wt = Transpose (wd) xt = Transpose (xd) yt = MatMul (wt, xt) y = Transpose (yt)",
    "Conv": """ks = Constant <value = int64[4] {4, 8, 1, 1}> () kt = Transpose (wd)
        k = Reshape (kt, ks) xr = Constant <value = int64[4] {0, 8, 1, 1}> () x4 = Reshape (xd, xr)
        y4 = Conv (x4, k) y = Flatten (y4)""",
    "Einsum": 'y = Einsum <equation = "nk,km->nm"> (xd, wd)',
}
INTEGER_LAYERS = {
    "QLinearMatMul": "p = QLinearMatMul (q, xs, xz, w, ws, wz, ys, xz)",
    "MatMulInteger": "m = MatMulInteger (q, w, xz, wz) y = Cast <to = 1> (m)",
    "through Identity": "i = Identity (w) m = MatMulInteger (q, i, xz) y = Cast <to = 1> (m)",
    "QGemm": "p = com.microsoft.QGemm (q, xs, xz, w, ws, wz, , ys, xz)",
    "float QGemm": "y = com.microsoft.QGemm (q, xs, xz, w, ws, wz)",
    "MatMulIntegerToFloat": "y = com.microsoft.MatMulIntegerToFloat (q, w, xs, ws, xz, wz)",
    "DynamicQuantizeMatMul": "y = com.microsoft.DynamicQuantizeMatMul (x, w, ws, wz)",
    "QLinearConv": """s = Constant <value = int64[4] {4, 8, 1, 1}> () wt = Transpose (w)
        k = Reshape (wt, s) xr = Constant <value = int64[4] {0, 8, 1, 1}> () q4 = Reshape (q, xr)
        p4 = QLinearConv (q4, xs, xz, k, ws, wz, ys, xz) p = Flatten (p4)""",
}
PAIRED = np.tile(np.array([[100], [28]], np.int8), (4, 4))  # neighbours add up to 128
APART = np.array([[100], [-100]] * 4, np.int8) * np.ones((1, 4), np.int8)
OVER = np.tile(np.array([[100], [29]], np.int8), (4, 4))


def model(body: str, activation: str = "uint8", inputs: str = "", **weights: np.ndarray) -> bytes:
    text = f"""g (float[N,8] x{inputs}) => (float[N,M] y)
    <float xs = {{0.02}}, {activation} xz = {{0}}, float ys = {{0.1}}, {SCALES}> {{
        q = QuantizeLinear (x, xs, xz) xd = DequantizeLinear (q, xs, xz)
        {body}
    }}"""
    unit = parse(text, **weights)
    found = onnx.load_model_from_string(unit.onnx.proto)
    found.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    return found.SerializeToString()


def weighted(layer: str, form: str, weights: np.ndarray, activation: str = "uint8") -> bytes:
    proto = model(f"{WEIGHTS[form]}\n{LAYERS[layer]}", activation, w=weights)
    return _without_initializer(proto) if form == "constant node" else proto


def integer(layer: str, weights: np.ndarray, activation: str = "uint8") -> bytes:
    body = INTEGER_LAYERS[layer]
    ends = "" if "y = " in body else "y = DequantizeLinear (p, ys, xz)"
    return model(f"{body}\n{ends}", activation, w=weights)


def _without_initializer(proto: bytes) -> bytes:
    found = onnx.load_model_from_string(proto)
    (weights,) = (each for each in found.graph.initializer if each.name == "w")
    found.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w"], value=weights))
    found.graph.initializer.remove(weights)
    return found.SerializeToString()


def flagged(proto: bytes, **options: bool) -> bool:
    return bool(x86.overflowing(onnx.load_model_from_string(proto), **options))


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


def constant_first(kind: str, value: int) -> bytes:
    text = f"""g (float[8,M] v) => (float[4,M] y)
    <float ws = {{0.01}}, int8 wz = {{0}}, {kind} zero = {{0}}> {{
        vq = QuantizeLinear (v, ws, wz) vd = DequantizeLinear (vq, ws, wz)
        wd = DequantizeLinear (w, ws, zero) y = MatMul (wd, vd)
    }}"""
    return parse(text, w=np.full((4, 8), value, kind)).onnx.proto


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


TURNED = "vq = QuantizeLinear (v, ws, wz) vt = Transpose (vq) vd = DequantizeLinear (vt, ws, wz)"
SHIPPED = {
    # what each needs where products are added in 16 bits
    "paired": (weighted("MatMul", "stored", PAIRED), "as it is"),
    "over": (weighted("MatMul", "stored", OVER), "widened"),
    "over, from floats": (weighted("Gemm", "from floats", OVER), "widened"),
    "over, convolution": (integer("QLinearConv", OVER), "widened"),
    "over, in float": (weighted("Conv", "transpose", OVER), "as it is"),  # no Q behind it
    "int8 by int8": (integer("QLinearMatMul", OVER, "int8"), "as it is"),
    "uint8 by int8": (integer("QLinearMatMul", OVER), "widened"),
    "activations": (
        model(
            "vq = QuantizeLinear (v, ws, wz) m = MatMulInteger (q, vq, xz, wz) "
            "y = Cast <to = 1> (m)",
            inputs=", float[8,M] v",
        ),
        "written out",
    ),
    "activations, dequantised": (
        model(f"{TURNED} y = MatMul (xd, vd)", inputs=", float[M,8] v"),
        "written out",
    ),
}


def extreme_feeds(proto: bytes) -> dict[str, np.ndarray]:
    """Everything at the end of its range; 4 where a dimension is free."""
    return {
        each.name: np.full(
            [dim.dim_value or 4 for dim in each.type.tensor_type.shape.dim],
            {"x": 5.1, "v": 1.27}[each.name],
            np.float32,
        )
        for each in onnx.load_model_from_string(proto).graph.input
    }


@pytest.mark.parametrize("name", SHIPPED)
def test_what_onnx_runtime_is_given_where_products_are_added_in_16_bits(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    proto, needs = SHIPPED[name]
    monkeypatch.setattr(x86, "adds_in_16_bits", lambda: True)
    graph, settings = ort_backend._unsaturated(proto)
    key = next(iter(settings), "")
    how = {"": "as it is", "session.x64quantprecision": "widened"}.get(key, "written out")
    assert how == needs
    optimised = tmp_path / "optimised.onnx"
    loaded = ort_backend._load(graph, 1, settings, optimised)
    assert x86.saturating(onnx.load(optimised)) == ()
    feeds = extreme_feeds(proto)
    expected = session(proto, threads=1).run(None, feeds)[0]
    np.testing.assert_allclose(loaded.run(None, feeds)[0], expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["over", "over, from floats", "over, in float", "uint8 by int8"])
def test_openvino_is_bound_to_cpus_with_room_or_refuses(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proto, _ = SHIPPED[name]
    monkeypatch.setattr(x86, "adds_in_16_bits", lambda: False)
    assert backend("openvino").build(proto, REQUEST).binding[x86.KEY] == x86.WIDE
    monkeypatch.setattr(x86, "adds_in_16_bits", lambda: True)
    with pytest.raises(ModelError) as caught:
        backend("openvino").build(proto, REQUEST)
    assert caught.value.id == "overflowing-weights"


EMULATED = """
import sys, numpy as np
from rtc.targets.backends import onnxruntime, x86
assert x86.adds_in_16_bits()
for name in sys.argv[1:]:
    case = np.load(name)
    feeds = {name: case[name] for name in case if name in ("x", "v")}
    got = onnxruntime._session(case["proto"].tobytes(), 1).run(None, feeds)[0]
    np.testing.assert_allclose(got, case["expected"], rtol=1e-5)
"""


@pytest.mark.slow
def test_what_ships_is_right_on_a_cpu_without_vnni(tmp_path: Path) -> None:
    emulator = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
    if not emulator:
        pytest.skip("needs qemu-x86_64 to emulate a CPU without VNNI")
    for name, (proto, _) in SHIPPED.items():
        feeds = extreme_feeds(proto)
        expected = session(proto, threads=1).run(None, feeds)[0]
        whole = {"proto": np.frombuffer(proto, np.uint8), "expected": expected}
        np.savez(tmp_path / name, **whole, **feeds)
    files = map(str, tmp_path.glob("*.npz"))
    command = [emulator, "-cpu", "Haswell-v4", sys.executable, "-c", EMULATED, *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode == -signal.SIGSEGV:  # seen with 2026.4.1 on a CPU with AMX
        pytest.skip("OpenVINO crashes here where it is told to use AVX2 alone")
    assert done.returncode == 0, done.stderr[-2000:]


NARROW = """
import sys, numpy as np
from rtc.targets.backends.openvino import openvino_quietly
core = openvino_quietly().Core()
for name in sys.argv[1:]:
    case = np.load(name)
    try:
        compiled = core.compile_model(core.read_model(case["proto"].tobytes(), b""), "CPU")
        got = compiled({n: case[n] for n in case if n in ("x", "v")})[0]
    except RuntimeError:  # it has no such kernel, and says so
        continue
    if not np.allclose(got, case["expected"], rtol=0.02):
        print(name)
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="kernels of x86")
def test_what_openvino_computes_wrong_without_vnni_is_flagged(tmp_path: Path) -> None:
    """Its kernels for AVX2, which it can be told to use: nothing wrong there goes unseen."""
    large = np.full((8, 4), 120, np.int8)
    cases = {form: weighted("MatMul", form, large) for form in WEIGHTS}
    cases["activations"], _ = SHIPPED["activations, dequantised"]
    cases["small, first"] = constant_first("int8", 5)
    for name, proto in cases.items():
        feeds = extreme_feeds(proto)
        expected = session(proto, threads=1).run(None, feeds)[0]
        whole = {"proto": np.frombuffer(proto, np.uint8), "expected": expected}
        np.savez(tmp_path / name, **whole, **feeds)
    files = map(str, tmp_path.glob("*.npz"))
    done = subprocess.run(
        [sys.executable, "-c", NARROW, *files],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    wrong = [Path(line).stem for line in done.stdout.splitlines()]
    assert "small, first" in wrong  # it does saturate
    assert [name for name in wrong if not flagged(cases[name])] == []


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
