"""Half types beside the float model: the same is seen, however little is looked at at a time."""

from __future__ import annotations

import numpy as np
import pytest
from check_pass import parse

from rtc.calibration import half_twins
from rtc.calibration.half_twins import Beside, Seen, Twin
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.data import Preprocess, Split

UNIT = parse(
    """g (float[8,16] x) => (float[8,16] y) {
        [first] a = MatMul(x, w)
        [relu] b = Relu(a)
        [second] c = MatMul(b, w)
        [add] d = Add(c, x)
        [third] y = MatMul(d, w)
    }""",
    w=np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32),
)
HALVES = parse(
    """g (float[8,16] x) => (float[8,16] y) {
        [in] h = Cast<to = 10>(x)
        [first] a = MatMul(h, w)
        [relu] b = Relu(a)
        [second] c = MatMul(b, w)
        [add] d = Add(c, h)
        [third] z = MatMul(d, w)
        [out] y = Cast<to = 1>(z)
    }""",
    w=np.random.default_rng(0).standard_normal((16, 16)).astype(np.float16),
)
TENSORS = ["a", "b", "c", "d"]
SAMPLES = np.random.default_rng(1).standard_normal((32, 16)).astype(np.float32)
_ONE = 8 * 16


def looked() -> tuple[dict[str, Seen], list[dict[str, Seen]]]:
    beside = Beside(UNIT.onnx.proto, Split("some", SAMPLES, None, Preprocess()), 8)
    twins = {n: Twin(frozenset({"x", "a", "b", "c", "d"}), half=True) for n in ("first", "relu")}
    twins |= {n: Twin(frozenset({"a", "b", "c", "d"}), half=True) for n in ("second", "third")}
    alone = beside.alone(twins, "fp16")
    return alone, [beside.together(HALVES.onnx.proto, TENSORS) for _ in range(2)]


def test_what_is_seen_does_not_depend_on_how_much_is_compared_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone, (once, again) = looked()
    assert {*alone} == {"x", "a", "b", "c", "y"}
    assert {*once} == {*TENSORS}
    assert once == again
    assert 50 < once["d"].snr_db < 80
    most: list[int] = []
    real = half_twins._running

    def running(proto: bytes, tensors: list[str]):
        names = list(tensors)
        run = real(proto, names)

        def noted(inputs: Array) -> dict[str, Array]:
            found = run(inputs)
            most.append(sum(each.size for each in found.values()))
            return found

        return noted

    monkeypatch.setattr(half_twins, "_running", running)
    monkeypatch.setattr(half_twins, "_LEAST", 32)  # as many samples as before
    monkeypatch.setattr(half_twins, "_VALUES", 2 * _ONE)
    assert looked() == (alone, [once, again])
    assert max(most) <= 4 * _ONE  # two tensors and their twins


def test_the_float_model_runs_once_for_all_graphs_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    beside = Beside(UNIT.onnx.proto, Split("some", SAMPLES, None, Preprocess()), 8)
    before = beside.together(HALVES.onnx.proto, TENSORS)
    real = half_twins._running

    def running(proto: bytes, tensors: list[str]):
        assert proto != UNIT.onnx.proto
        return real(proto, tensors)

    monkeypatch.setattr(half_twins, "_running", running)
    assert beside.together(HALVES.onnx.proto, TENSORS) == before
