from __future__ import annotations

import numpy as np
import onnx
from one_operator import answers, model_of

from rtc.targets.backends.dequantised import (
    as_stored,
    in_a_row,
    numbered,
    numbers,
    places,
    without_scale,
)

TEXT = """
g (float[N,2] x) => (float[N,3] y) {
  [d] w = DequantizeLinear<axis=1>(q, s, z) y = MatMul(x, w)
}
"""
CONSTANTS = {
    "q": np.array([[1, 2, 3], [4, 5, 6]], np.uint8),
    "s": np.array([0.5, 0.25, 2], np.float32),
    "z": np.array([1, 0, 3], np.uint8),
}
ONE = np.eye(2, dtype=np.float32)


def replaced(make) -> np.ndarray:
    model = model_of(TEXT, CONSTANTS)
    node = model.graph.node[0]
    instead = make({"w": node})["w"]
    rest = [onnx.NodeProto.FromString(n.SerializeToString()) for n in model.graph.node[1:]]
    del model.graph.node[:]
    model.graph.node.extend([*instead, *rest])
    return answers(model, {"x": ONE})[0]


def test_integers_as_they_are_stored() -> None:
    np.testing.assert_array_equal(replaced(as_stored), CONSTANTS["q"])


def test_integers_less_their_zero_points_by_channel() -> None:
    np.testing.assert_array_equal(replaced(without_scale), [[0, 2, 0], [3, 5, 3]])


def test_numbers_show_where_each_integer_went() -> None:
    given = numbers(6)
    assert len(np.unique(np.abs(given))) == 6
    seen = replaced(lambda _: numbered({"w": np.zeros((2, 3), np.int8)}, given))
    np.testing.assert_array_equal(seen.ravel(), given)
    order = places(seen.T.ravel(), given)
    assert order is not None
    np.testing.assert_array_equal(order, [0, 3, 1, 4, 2, 5])
    np.testing.assert_array_equal(places(np.float32([0, given[2]]), given), [6, 2])
    assert places(np.float32([given[0] + given[1]]), given) is None


def test_all_in_a_row_with_a_zero_behind() -> None:
    row = in_a_row({"a": np.array([[1, -2]], np.int8), "b": np.array([200], np.uint8)})
    assert row.dtype == np.int16
    assert row.tolist() == [1, -2, 200, 0]
