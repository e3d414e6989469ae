"""Models as ONNX text whose first axis is a batch, or is none."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from check_pass import unit_of
from onnx import numpy_helper

from rtc.compiler.core.unit import Unit

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'
BATCH = "g (float[N,6] x) => (float[N,3] y) { y = MatMul(x, w) }"
OVER_SAMPLES = "g (float[T,6] x) => (float[T,3] y) { a = MatMul(x, w) y = Softmax<axis=0>(a) }"
ROWS = """
g (float[T,6] x) => (float[T,3] y) { a = ReduceMean<axes=[0], keepdims=1>(x) y = MatMul(a, w) }
"""
BAKED = """
g (float[{batch},2,3] x) => (float[{batch},3] y) {{
  f = Flatten(x)
  c = Concat<axis=1>(f, token)
  y = MatMul(c, w8)
}}
"""
DRAW = np.random.default_rng(0)
CONSTANTS: Mapping[str, np.ndarray] = {
    "w": DRAW.normal(size=(6, 3)).astype(np.float32),
    "wi": DRAW.integers(-90, 90, (6, 3)).astype(np.int8),
    "second": np.array([1]),
    "k": DRAW.normal(size=(4, 3, 3, 3)).astype(np.float32),
    "r": DRAW.normal(size=(4, 5)).astype(np.float32),
    "small": np.array(0.05, np.float32),
    "none": np.array(0, np.float32),
    "one": np.array(1, np.float32),
    "axis": np.array(0, np.int64),
    "ahead": np.array([2, 0, 0, 0]),
    "zero": np.array([0]),
    "minus_two": np.array([-2]),
    "shape": np.array([4, -1]),
    "eight_rows": np.array([8, 3]),
    "four_by_two": np.array([4, 2, 3]),
    "token": np.ones((4, 2), np.float32),
    "w8": DRAW.normal(size=(8, 3)).astype(np.float32),
    "b0": np.zeros(3, np.float32),
    "b1": np.ones(3, np.float32),
}
SAMPLES = np.random.default_rng(1).normal(size=(16, 6)).astype(np.float32)
CUBES = SAMPLES.reshape(16, 2, 3)


def model(text: str) -> Unit:
    made = onnx.parser.parse_model(HEAD + text)
    used = {name for node in made.graph.node for name in node.input}
    made.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in CONSTANTS.items() if name in used
    )
    return unit_of(made.SerializeToString())


def first(unit: Unit) -> int | str:
    return unit.signature.inputs[0].shape[0]
