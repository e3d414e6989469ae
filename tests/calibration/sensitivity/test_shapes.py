from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from rtc.calibration.sensitivity.shapes import is_large, per_sample


@pytest.mark.parametrize(
    ("shape", "elements"), [((7, 3, 2), 6), ((14, 3), 6), ((5, 3), 15), ((), 1)]
)
def test_elements_are_counted_by_sample_where_there_is_a_batch(shape, elements) -> None:
    assert per_sample(shape, 7) == elements


@pytest.mark.parametrize(
    ("values", "large"),
    [
        (np.zeros(1025, np.float32), True),
        (np.zeros(1024, np.float32), False),
        (np.zeros(1025, np.int64), False),
    ],
)
def test_floats_by_the_thousand_are_large(values, large) -> None:
    tensor: onnx.TensorProto = numpy_helper.from_array(values, "w")
    assert is_large(tensor) is large
