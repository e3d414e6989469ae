from __future__ import annotations

import numpy as np
from check_pass import parse

from rtc.calibration.seen_sizes import seen_sizes

UNIT = parse(
    """g (float[N,3,H,6] x) => (float[N,M] y) {
      p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) s = Shape(p) y = Flatten(p)
    }"""
)
X = np.ones((2, 3, 8, 6), np.float32)


def test_shapes_that_only_a_run_tells_and_values() -> None:
    shapes, values = seen_sizes(UNIT.onnx.proto, X, ["p", "y"], ["s"])
    assert shapes == {"p": (2, 3, 4, 3), "y": (2, 36)}
    assert values["s"].tolist() == [2, 3, 4, 3]


def test_where_nothing_is_asked_nothing_runs() -> None:
    assert seen_sizes(b"no model at all", X, [], []) == ({}, {})
