"""Integers of every kind, and models run in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
from integer_products import (
    SIGNED,
    extreme,
    operators,
)
from onnx import helper

from rtc.calibration.oracle import session
from rtc.compiler.core.exact_products import write_out

FLOAT, INT32, MS = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32, "com.microsoft"
KINDS = [(a, b) for a in SIGNED for b in SIGNED]


def run(proto: bytes, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """One output, after a look that no product of integers is left to the runtime."""
    left = {op for op in operators(write_out(proto)) if "Integer" in op or op.startswith("QL")}
    assert not left
    return session(proto, threads=1).run(None, feeds)[0]


def zero_of(rng: np.random.Generator, kind: str, shape: tuple[int, ...] = ()) -> np.ndarray:
    return np.asarray(extreme(rng, kind, shape, mostly=0))


def number(kind: str) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(SIGNED[kind]))
