from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from check_pass import parse

from rtc.calibration.preparation import better_preparation
from rtc.compiler.core.data import Preprocess, Split

RNG = np.random.default_rng(0)
RAW = RNG.integers(0, 256, (128, 2, 2, 3)).astype(np.uint8)
WEIGHTS = RNG.standard_normal((12, 4)).astype(np.float32)
MODEL = parse(
    "g (float[N,3,2,2] x) => (float[N,4] y) { f = Flatten(x) y = MatMul(f, w) }", w=WEIGHTS
)
WANTED = Preprocess(scale=1 / 255, mean=(0.5,), std=(0.25,), layout="hwc")
LABELS = (WANTED(RAW).reshape(128, -1) @ WEIGHTS).argmax(axis=1)
RIGHT = Split("test", RAW, LABELS, WANTED)


def test_what_is_right_stays() -> None:
    assert better_preparation(MODEL.onnx.proto, RIGHT) is None


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"raw": RAW[..., ::-1]}, "channels in the other order"),
        ({"preprocess": replace(WANTED, scale=1.0)}, "values 255 times smaller"),
        ({"preprocess": replace(WANTED, scale=1 / 255**2)}, "values 255 times larger"),
    ],
)
def test_a_mistake_is_named_with_what_it_costs(change: dict[str, object], name: str) -> None:
    better = better_preparation(MODEL.onnx.proto, replace(RIGHT, **change))
    assert better is not None
    assert better.name.startswith(name)
    assert better.after.value == 1.0
    assert better.before.high < better.after.low


def test_without_labels_nothing_can_be_told() -> None:
    assert better_preparation(b"not even a model", replace(RIGHT, labels=None)) is None
