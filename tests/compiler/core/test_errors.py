"""What of a runtime's error reaches a reader."""

from __future__ import annotations

import numpy as np
import pytest
from check_pass import parse

from rtc.calibration.oracle import Oracle
from rtc.compiler.core.errors import first_line

AXES = "Axis 0 has mismatched dimensions of 2 and 4"
RESHAPE = (
    "g (float[N,2,3] x) => (float[N,6] y) <int64[2] s = {1,6}> { [node_view] y = Reshape(x, s) }"
)
CONCAT = (
    "g (float[N,6] x) => (float[N,7] y) <float[2,1] s = {1,2}> { [c] y = Concat<axis=1>(x, s) }"
)
ADD = "g (float[N,6] x) => (float[N,6] y) <float[2,1] s = {1,6}> { y = Add(x, s) }"


@pytest.mark.parametrize(
    ("text", "shape", "said"),
    [
        (RESHAPE, (4, 2, 3), "node_view (Reshape): input {4,2,3}, requested {1,6}"),
        (CONCAT, (4, 6), f"c (Concat): Non concat axis dimensions must match: {AXES}"),
        (ADD, (4, 6), "Add: Attempting to broadcast an axis by a dimension other than 1. 2 by 4"),
    ],
)
def test_a_runtimes_reason_is_without_its_codes_and_its_source(text, shape, said) -> None:
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    kinds = (errors.Fail, errors.InvalidArgument, errors.RuntimeException)
    with Oracle(parse(text).onnx.proto) as oracle, pytest.raises(kinds) as caught:
        oracle.run(np.zeros(shape, np.float32))
    assert first_line(caught.value) == said


def test_a_long_reason_ends_between_two_words() -> None:
    said = first_line(ValueError(f"{'nine char ' * 30}\nmore"))
    assert len(said) <= 200
    assert said.endswith(("nine …", "char …"))
    assert first_line(ValueError()) == "ValueError"
    assert first_line(ValueError("as  it stands")) == "as  it stands"
