"""Operators on 8-bit integers in the reference, against numpy's int64: equal, on every CPU."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from check_pass import parse
from integer_kinds import FLOAT, INT32, KINDS, MS, number, run, zero_of
from integer_products import (
    SIGNED,
    convolution,
    extreme,
    one_node,
    requantise,
    wide,
)
from onnx import numpy_helper

from rtc.calibration.oracle import session
from rtc.compiler.core.exact_products import write_out
from rtc.compiler.core.function_calls import DOMAIN
from rtc.compiler.core.protos import nested


@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize(("a_kind", "b_kind"), KINDS)
@pytest.mark.parametrize(
    "shapes", [((5, 33), (33, 7)), ((2, 3, 5, 33), (3, 33, 7)), ((9,), (9, 4))]
)
def test_matmul_integer(
    a_kind: str, b_kind: str, shapes: tuple[tuple[int, ...], ...], per_column: bool
) -> None:
    rng = np.random.default_rng(1)
    a, b = extreme(rng, a_kind, shapes[0]), extreme(rng, b_kind, shapes[1])
    az, bz = zero_of(rng, a_kind), zero_of(rng, b_kind, shapes[1][-1:] if per_column else ())
    proto = one_node(
        "MatMulInteger", {"a": a, "b": b}, {"az": az, "bz": bz}, "a b az bz", gives=INT32
    )
    np.testing.assert_array_equal(run(proto, {"a": a, "b": b}), wide(a, az) @ wide(b, bz))
    bare = one_node("MatMulInteger", {"a": a, "b": b}, {}, "a b", gives=INT32)
    np.testing.assert_array_equal(run(bare, {"a": a, "b": b}), wide(a) @ wide(b))


def test_a_sum_near_the_end_of_int32() -> None:
    a, b = np.full((1, 33_000), 255, np.uint8), np.full((33_000, 1), 255, np.uint8)
    proto = one_node("MatMulInteger", {"a": a, "b": b}, {}, "a b", gives=INT32)
    assert run(proto, {"a": a, "b": b}).item() == 33_000 * 255 * 255


@pytest.mark.parametrize("opset", [10, 17, 21])
@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize(("a_kind", "b_kind"), KINDS)
def test_qlinear_matmul(a_kind: str, b_kind: str, per_column: bool, opset: int) -> None:
    rng = np.random.default_rng(2)
    a, b = extreme(rng, a_kind, (3, 6, 40)), extreme(rng, b_kind, (40, 8))
    shape = (8,) if per_column else ()
    constants = {
        "as": np.float32(0.013),
        "az": zero_of(rng, a_kind),
        "bs": rng.uniform(0.001, 0.02, shape).astype(np.float32),
        "bz": zero_of(rng, b_kind, shape),
        "ys": np.float32(0.7),
        "yz": zero_of(rng, a_kind),
    }
    feeds = {"a": a, "b": b}
    proto = one_node(
        "QLinearMatMul",
        feeds,
        constants,
        "a as az b bs bz ys yz",
        gives=number(a_kind),
        opset=opset,
    )
    c = constants
    scale = c["as"].astype(float) * c["bs"].astype(float) / c["ys"].astype(float)
    total = wide(a, c["az"]) @ wide(b, c["bz"])
    expected = requantise(total, scale, c["yz"])
    assert len(np.unique(expected)) > 20
    np.testing.assert_array_equal(run(proto, feeds), expected)


@pytest.mark.parametrize("as_column", [False, True])
def test_zero_points_by_row_of_the_first_operand(as_column: bool) -> None:
    rng = np.random.default_rng(3)
    a, b = extreme(rng, "u8", (4, 4)), extreme(rng, "s8", (4, 4))
    az = rng.integers(0, 255, 4).astype(np.uint8)
    given = az[:, None] if as_column else az
    proto = one_node("MatMulInteger", {"a": a, "b": b}, {"az": given}, "a b az", gives=INT32)
    np.testing.assert_array_equal(run(proto, {"a": a, "b": b}), wide(a, az[:, None]) @ wide(b))


@pytest.mark.parametrize("turned", [(0, 0), (1, 0), (0, 1)])
@pytest.mark.parametrize(("a_kind", "b_kind"), KINDS)
def test_qgemm(a_kind: str, b_kind: str, turned: tuple[int, int]) -> None:
    rng = np.random.default_rng(8)
    a, b = extreme(rng, a_kind, (5, 24)), extreme(rng, b_kind, (24, 6))
    c = {
        "as": np.float32(0.02),
        "az": zero_of(rng, a_kind),
        "bs": rng.uniform(0.01, 0.02, 6).astype(np.float32),
        "bz": zero_of(rng, b_kind, (6,)),
        "c": rng.integers(-9000, 9000, 6).astype(np.int32),
        "ys": np.float32(1.7),
        "yz": zero_of(rng, a_kind),
    }
    feeds = {"a": a.T if turned[0] else a, "b": b.T if turned[1] else b}
    options = {"transA": turned[0], "transB": turned[1], "alpha": 0.5, "domain": MS}
    proto = one_node("QGemm", feeds, c, "a as az b bs bz c ys yz", gives=number(a_kind), **options)
    total = wide(a, c["az"]) @ wide(b, c["bz"]) + c["c"]
    scale = 0.5 * c["as"].astype(float) * c["bs"].astype(float)
    expected = requantise(total, scale / c["ys"].astype(float), c["yz"])
    np.testing.assert_array_equal(run(proto, feeds), expected)
    proto = one_node("QGemm", feeds, c, "a as az b bs bz c", gives=FLOAT, **options)
    np.testing.assert_array_equal(run(proto, feeds), (total * scale).astype(np.float32))


@pytest.mark.parametrize(("a_kind", "b_kind"), KINDS)
def test_matmul_integer_to_float(a_kind: str, b_kind: str) -> None:
    rng = np.random.default_rng(9)
    a, b = extreme(rng, a_kind, (2, 5, 24)), extreme(rng, b_kind, (24, 6))
    c = {
        "as": np.float32(0.02),
        "bs": rng.uniform(0.01, 0.02, 6).astype(np.float32),
        "az": zero_of(rng, a_kind),
        "bz": zero_of(rng, b_kind, (6,)),
        "bias": rng.standard_normal(6).astype(np.float32),
    }
    proto = one_node(
        "MatMulIntegerToFloat", {"a": a, "b": b}, c, "a b as bs az bz bias", gives=FLOAT, domain=MS
    )
    scale = c["as"].astype(float) * c["bs"].astype(float)
    expected = (wide(a, c["az"]) @ wide(b, c["bz"])) * scale + c["bias"].astype(float)
    np.testing.assert_array_equal(run(proto, {"a": a, "b": b}), expected.astype(np.float32))


@pytest.mark.parametrize("b_kind", SIGNED)
def test_dynamic_quantize_matmul(b_kind: str) -> None:
    rng = np.random.default_rng(10)
    b, bz = extreme(rng, b_kind, (24, 6)), zero_of(rng, b_kind)
    x = rng.integers(0, 256, (3, 24)).astype(np.float32)
    x[0, :2] = 0, 255  # a scale of 1, and a zero point of 0
    c = {"b": b, "bs": np.float32(0.5), "bz": bz}
    proto = one_node("DynamicQuantizeMatMul", {"x": x}, c, "x b bs bz", gives=FLOAT, domain=MS)
    np.testing.assert_array_equal(run(proto, {"x": x}), (wide(x) @ wide(b, bz)) * 0.5)


@pytest.mark.parametrize(("a_kind", "b_kind"), KINDS)
def test_quantised_attention_is_attention_of_what_it_stands_for(a_kind: str, b_kind: str) -> None:
    rng = np.random.default_rng(11)
    a, b = extreme(rng, a_kind, (2, 5, 8)), extreme(rng, b_kind, (8, 24))
    az, bz = zero_of(rng, a_kind), zero_of(rng, b_kind)
    scales = {"as": np.float32(0.004), "bs": np.float32(0.003)}
    bias = rng.standard_normal(24).astype(np.float32)
    c = {"b": b, "bias": bias, **scales, "az": az, "bz": bz}
    proto = one_node(
        "QAttention", {"a": a}, c, "a b bias as bs - az bz", gives=FLOAT, domain=MS, num_heads=2
    )
    qkv = wide(a, az) @ wide(b, bz) * float(scales["as"]) * float(scales["bs"]) + bias
    q, k, v = (part.reshape(2, 5, 2, 4).swapaxes(1, 2) for part in np.split(qkv, 3, axis=-1))
    scores = np.exp(q @ k.swapaxes(-1, -2) / 2)
    expected = (scores / scores.sum(-1, keepdims=True)) @ v
    np.testing.assert_allclose(
        run(proto, {"a": a}), expected.swapaxes(1, 2).reshape(2, 5, 8), rtol=1e-4, atol=1e-5
    )


def lstm(kind: str) -> bytes:
    rng = np.random.default_rng(12)
    shift = 128 if kind == "u8" else 0
    weights = {
        name: (rng.integers(-128, 128, (1, size, 16)) + shift).astype(SIGNED[kind])
        for name, size in (("w", 6), ("r", 4))
    }
    scale, zero = np.array([0.003], np.float32), np.array([shift], SIGNED[kind])
    x = np.zeros((3, 2, 6), np.float32)
    return one_node(
        "DynamicQuantizeLSTM",
        {"x": x},
        {**weights, "s": scale, "z": zero},
        "x w r - - - - - s z s z",
        gives=FLOAT,
        domain=MS,
        hidden_size=4,
    )


def test_a_quantised_lstm_has_unsigned_weights() -> None:
    x = np.random.default_rng(13).standard_normal((3, 2, 6)).astype(np.float32)
    assert write_out(lstm("u8")) == lstm("u8")
    model = onnx.inliner.inline_local_functions(onnx.load_model_from_string(write_out(lstm("s8"))))
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    assert sum(node.attribute[0].i == number("u8") for node in casts) == 4
    signed, unsigned = (session(lstm(kind), threads=1).run(None, {"x": x})[0] for kind in SIGNED)
    np.testing.assert_allclose(signed, unsigned, atol=1e-6)


def test_rounding_is_of_the_exact_product() -> None:
    """1 · (1 + 2⁻²³) · (1 - 2⁻²⁴) / 2 is more than a half; in float32 it is one, and goes to 0."""
    c = {
        "as": np.float32(1 + 2**-23),
        "bs": np.float32(1 - 2**-24),
        "ys": np.float32(2),
        "z": np.uint8(0),
    }
    a, b = np.array([[1], [3]], np.uint8), np.ones((1, 1), np.uint8)
    order = "a as z b bs z ys z"
    proto = one_node("QLinearMatMul", {"a": a, "b": b}, c, order, gives=number("u8"))
    assert run(proto, {"a": a, "b": b}).ravel().tolist() == [1, 2]


def test_ties_go_to_even_and_what_is_out_of_range_saturates() -> None:
    c = {"s": np.float32(1), "ys": np.float32(2), "z": np.int8(0)}
    a, b = np.array([[1], [3], [5], [-1], [-3], [127], [-128]], np.int8), np.ones((1, 1), np.int8)
    order = "a s z b s z ys z"
    proto = one_node("QLinearMatMul", {"a": a, "b": b}, c, order, gives=number("s8"))
    assert run(proto, {"a": a, "b": b}).ravel().tolist() == [0, 2, 2, 0, -2, 64, -64]
    b = np.full((1, 1), 127, np.int8)
    top = run(proto, {"a": a, "b": b}).ravel().tolist()
    assert top == [64, 127, 127, -64, -128, 127, -128]


def test_matrices_of_few_bits_keep_their_activations() -> None:
    """A level of accuracy of 4 has them quantised: 3 % off here."""
    rng = np.random.default_rng(14)
    x = rng.standard_normal((2, 32)).astype(np.float32) * [[1], [100]]
    packed = rng.integers(0, 256, (4, 1, 16)).astype(np.uint8)
    c = {"w": packed, "s": rng.uniform(0.1, 1, 4).astype(np.float32)}
    x = x.astype(np.float32)
    low, high = packed[:, 0] & 15, packed[:, 0] >> 4
    w = (np.stack([low, high], -1).reshape(4, 32).astype(float) - 8) * c["s"][:, None]
    proto = one_node(
        "MatMulNBits",
        {"x": x},
        c,
        "x w s",
        gives=FLOAT,
        domain=MS,
        K=32,
        N=4,
        bits=4,
        block_size=32,
        accuracy_level=4,
    )
    np.testing.assert_allclose(session(proto, 1).run(None, {"x": x})[0], x @ w.T, rtol=1e-4)


def test_products_inside_branches_and_functions() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
    g (bool[1] c, uint8[2,8] a) => (int32[2,3] y) <int8[8,3] b, int8[8,3] b2> {
        y = If (c) <
            then_branch = t () => (int32[2,3] u) { u = own.Product (a, b) },
            else_branch = e () => (int32[2,3] v) { v = MatMulInteger (a, b2) }
        >
    }
    <domain: "own", opset_import: ["" : 17]>
    Product (p, q) => (r) { r = MatMulInteger (p, q) }"""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(15)
    a = extreme(rng, "u8", (2, 8))
    b = {name: extreme(rng, "s8", (8, 3)) for name in ("b", "b2")}
    del model.graph.initializer[:]
    model.graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in b.items())
    proto = model.SerializeToString()
    written = onnx.load_model_from_string(write_out(proto)).graph
    products = [n for g in nested(written) for n in g.node if n.op_type == "MatMulInteger"]
    assert [node.domain for node in products] == [DOMAIN, DOMAIN]
    for taken, name in ((True, "b"), (False, "b2")):
        feeds = {"c": np.array([taken]), "a": a}
        got = session(proto, threads=1).run(None, feeds)[0]
        np.testing.assert_array_equal(got, wide(a) @ wide(b[name]))


def test_a_model_without_such_operators_is_not_touched() -> None:
    proto = parse(
        "g (float[N] x) => (float[N] MatMulInteger) { MatMulInteger = Neg(x) }"
    ).onnx.proto
    assert write_out(proto) == proto


EMULATED = """
import sys, numpy as np, onnx
from rtc.calibration.oracle import session
for name in sys.argv[1:]:
    case = np.load(name)
    got = session(case["proto"].tobytes(), threads=1).run(None, {"a": case["a"], "b": case["b"]})
    np.testing.assert_array_equal(got[0], case["expected"])
"""


@pytest.mark.slow
def test_on_a_cpu_without_vnni(tmp_path: Path) -> None:
    """An emulated Haswell, where ONNX Runtime's own products are a quarter off."""
    emulator = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
    if not emulator:
        pytest.skip("needs qemu-x86_64 to emulate a CPU without VNNI")
    rng = np.random.default_rng(16)
    for a_kind, b_kind in KINDS:
        a, b = extreme(rng, a_kind, (2, 8, 5, 5)), extreme(rng, b_kind, (6, 8, 3, 3))
        conv = one_node("ConvInteger", {"a": a, "b": b}, {}, "a b", gives=INT32)
        expected = convolution(wide(a), wide(b))
        _save(tmp_path / f"conv {a_kind} {b_kind}", conv, a, b, expected)
        a, b = extreme(rng, a_kind, (5, 33)), extreme(rng, b_kind, (33, 7))
        matmul = one_node("MatMulInteger", {"a": a, "b": b}, {}, "a b", gives=INT32)
        _save(tmp_path / f"matmul {a_kind} {b_kind}", matmul, a, b, wide(a) @ wide(b))
    files = map(str, tmp_path.glob("*.npz"))
    command = [emulator, "-cpu", "Haswell-v4", sys.executable, "-c", EMULATED, *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def _save(path: Path, proto: bytes, a: np.ndarray, b: np.ndarray, expected: np.ndarray) -> None:
    np.savez(path, proto=np.frombuffer(proto, np.uint8), a=a, b=b, expected=expected)
