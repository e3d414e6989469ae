from __future__ import annotations

import numpy as np
import pytest
from check_pass import parse

from rtc.passes.quantise.half import LARGEST, half_dtype, half_obstacle, is_lost, peak_of, retyped
from rtc.passes.support.onnx_graph import read

UNIT = parse(
    """g (float[N,3] x, int64[N] i) => (float[N,2] y, int64[2] s, float[N,3] e) {
      [mul] y0 = MatMul(x, w) [add] y = Add(y0, b) [shape] s = Shape(x)
      [one] c = Cast<to=1>(i) [up] u = Unsqueeze(c, axis) [sum] e = Add(x, u)
      [big] z = Mul(x, huge)
    }""",
    opsets='"" : 17',
    w=np.ones((3, 2), np.float32),
    b=np.ones(2, np.float32),
    axis=np.array([1]),
    huge=np.float32([1e6]),
)
GRAPH = read(UNIT)
NODES = {node.name: node for node in GRAPH.nodes}


def test_the_largest_numbers_are_those_of_the_types() -> None:
    assert float(np.finfo(np.float16).max) == LARGEST["fp16"]
    import ml_dtypes

    assert float(ml_dtypes.finfo(half_dtype("bf16")).max) == LARGEST["bf16"]


@pytest.mark.parametrize(
    ("name", "places"),
    [("mul", ([0, 1], [0])), ("add", ([0, 1], [0])), ("shape", None), ("one", None)],
)
def test_what_changes_type_together(name: str, places: tuple[list[int], list[int]] | None) -> None:
    assert retyped(NODES[name], 17, "fp16") == places


def test_why_a_node_stays() -> None:
    assert half_obstacle(NODES["mul"], 17, "fp16") == ""
    assert half_obstacle(NODES["shape"], 17, "fp16") == "Shape has no fp16 form"
    assert half_obstacle(NODES["big"], 17, "fp16") == "a constant of 1e+06 overflows fp16"
    assert half_obstacle(NODES["big"], 17, "bf16") == ""


@pytest.mark.parametrize(
    ("values", "half", "lost"),
    [
        ([1.0, 1e-10], "fp16", False),  # nobody misses the small one
        ([1e-10], "fp16", True),
        ([1e-10], "bf16", False),
        ([6e-5], "fp16", False),
        ([7e4], "fp16", True),
        ([7e4], "bf16", False),
        ([0.0, -np.inf], "fp16", False),
        ([-3.4e38], "fp16", True),
    ],
)
def test_what_is_lost_in_a_half_type(values: list[float], half: str, lost: bool) -> None:
    assert is_lost(np.float32(values), half) is lost


def test_the_peak_is_of_finite_numbers() -> None:
    assert peak_of(np.float32([1, -3, np.inf])) == 3
    assert peak_of(np.float32([])) == 0
