from __future__ import annotations

import numpy as np
import pytest
from check_pass import parse, random_samples

from rtc.calibration.effect import output_snr_db

WEIGHTS = np.random.default_rng(3).standard_normal((4, 5)).astype(np.float32)
PLAIN = "g (float[N,4] x) => (float[N,5] y) { y = MatMul(x, w) }"
SHARES = "g (float[N,4] x) => (float[N,5] y) { z = MatMul(x, w) y = Softmax(z) }"


def test_the_same_model_loses_nothing() -> None:
    unit = parse(PLAIN, w=WEIGHTS)
    split = random_samples(unit, 50).test
    assert output_snr_db(unit.onnx.proto, unit.onnx.proto, split) == 120.0


def test_a_change_of_one_part_in_a_hundred_is_40_decibels() -> None:
    one, other = parse(PLAIN, w=WEIGHTS), parse(PLAIN, w=WEIGHTS * np.float32(1.01))
    split = random_samples(one, 50).test
    assert output_snr_db(one.onnx.proto, other.onnx.proto, split) == pytest.approx(40.0, abs=0.01)


def test_of_probabilities_their_logarithms_are_compared() -> None:
    one, other = (parse(SHARES, w=WEIGHTS * np.float32(f)) for f in (1.0, 1.01))
    split = random_samples(one, 50).test
    x = split.inputs()
    logs = []
    for factor in (1.0, 1.01):
        z = x.astype(np.float64) @ (WEIGHTS * np.float32(factor))
        logs.append(z - np.log(np.exp(z).sum(axis=1, keepdims=True)))
    wanted = 10 * np.log10(np.square(logs[0]).sum() / np.square(logs[1] - logs[0]).sum())
    seen = output_snr_db(one.onnx.proto, other.onnx.proto, split)
    assert seen == pytest.approx(wanted, abs=0.01)
