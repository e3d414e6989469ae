from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from rtc.passes.graph.constant_nodes import to_initialisers


def sparse(indices: np.ndarray) -> onnx.SparseTensorProto:
    values = numpy_helper.from_array(np.float32([5, 7]), "values")
    return helper.make_sparse_tensor(values, numpy_helper.from_array(indices, "at"), [2, 3])


FORMS = {
    "value": (numpy_helper.from_array(np.int8([[1, 2]])), np.int8([[1, 2]])),
    "value_float": (1.5, np.float32(1.5)),
    "value_floats": ([1.5, 2.5], np.float32([1.5, 2.5])),
    "value_int": (3, np.int64(3)),
    "value_ints": ([3, 4], np.int64([3, 4])),
    "sparse_value": (sparse(np.array([1, 5])), np.float32([[0, 5, 0], [0, 0, 7]])),
}


def graph_of(name: str, value: object, *, ends: bool = False) -> onnx.GraphProto:
    constant = helper.make_node("Constant", [], ["c"], **{name: value})
    nodes = [constant, helper.make_node("Identity", ["c"], ["y"])]
    output = helper.make_empty_tensor_value_info("c" if ends else "y")
    return helper.make_graph(nodes, "g", [], [output])


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_an_initialiser(name: str) -> None:
    value, wanted = FORMS[name]
    graph = graph_of(name, value)
    to_initialisers(graph)
    assert [node.op_type for node in graph.node] == ["Identity"]
    (tensor,) = graph.initializer
    assert tensor.name == "c"
    made = numpy_helper.to_array(tensor)
    assert made.dtype == wanted.dtype
    np.testing.assert_array_equal(made, wanted)


def test_sparse_places_may_be_one_for_each_axis() -> None:
    graph = graph_of("sparse_value", sparse(np.array([[0, 1], [1, 2]])))
    to_initialisers(graph)
    made = numpy_helper.to_array(graph.initializer[0])
    np.testing.assert_array_equal(made, FORMS["sparse_value"][1])


def test_what_fits_no_memory_and_what_is_an_output_stay_nodes() -> None:
    huge = sparse(np.array([1, 5]))
    huge.dims[:] = [1 << 20, 1 << 20]
    for graph in (graph_of("sparse_value", huge), graph_of("value_float", 1.0, ends=True)):
        before = graph.SerializeToString()
        to_initialisers(graph)
        assert graph.SerializeToString() == before
