from __future__ import annotations

import onnx
import pytest
from nets import ONNXRUNTIME, TENSORRT, planned, residual

from rtc.compiler.core.precision import Variant
from rtc.compiler.core.target import BuildRequest, BuiltLayer
from rtc.compiler.search.parts import Shares, attribute, network
from rtc.passes.quantise.cast_precision import CastPrecision
from rtc.passes.quantise.insert_qdq import InsertQdq
from rtc.targets import loader

UNIT = residual()


def test_a_part_owns_what_follows_it_up_to_the_next():
    found = network(UNIT)
    assert list(found.parts) == [
        "stem", "conv1", "conv2", "join", "depthwise", "pointwise", "conv3", "mean", "fc",
    ]  # fmt: skip
    assert found.reads["join"] == ("c2", "s")  # the stem's own output stands for its Relu's
    assert found.writes["join"] == "j"
    assert found.owners["pool"] == found.owners["pointwise_relu"] == "pointwise"
    assert found.owners["flat"] == "mean"
    assert found.carriers["f"] == "g"
    assert found.elements["s"] == 16 * 16 * 16


@pytest.mark.parametrize(
    ("target", "runtime", "scheme"),
    [("cpu", "onnxruntime", ONNXRUNTIME), ("rtx4060ti", "tensorrt_rtx", TENSORRT)],
)
def test_every_kernel_of_an_engine_is_the_time_of_something(target, runtime, scheme):
    ctx = planned(UNIT, scheme, Variant.INT8)
    unit = CastPrecision().apply(InsertQdq().apply(UNIT, ctx).unit, ctx).unit
    backend = loader.backend(runtime)
    built = backend.build(unit.onnx.proto, BuildRequest(loader.profile(target), (1, 8, 8)))
    graph = onnx.load_model_from_string(unit.onnx.proto)
    found = attribute(network(UNIT), graph, built.layers, [1.0] * len(built.layers))
    converted = sum(sum(forms.values()) for forms in found.conversions.values())
    assert sum(found.parts.values()) + converted + found.other == len(built.layers)
    assert found.other <= 2  # a transposition, a kernel without a name
    assert all(found.parts[name] >= 1 for name in ("stem", "conv1", "conv3", "fc"))
    assert found.conversions["x"]["int8"] >= 1  # the image is quantised by a kernel of its own


def test_what_an_output_is_converted_to_under_its_own_name_is_the_outputs():
    ctx = planned(UNIT, TENSORRT, Variant.HALF)
    unit = CastPrecision().apply(UNIT, ctx).unit
    graph = onnx.load_model_from_string(unit.onnx.proto)
    (name,) = (value.name for value in graph.graph.output)
    (last,) = (node for node in graph.graph.node if node.output[0] == name)
    assert last.op_type == "Cast"
    found = attribute(network(UNIT), graph, [BuiltLayer("cast", "Cast", (last.name,), None)], [1.0])
    assert found.conversions == {network(UNIT).carriers[name]: {"fp32": 1.0}}


def test_nothing_is_said_of_a_part_whose_kernels_have_no_time():
    backend = loader.backend("onnxruntime")
    request = BuildRequest(loader.profile("cpu"), (1, 8, 8))
    built = backend.build(UNIT.onnx.proto, request)
    graph = onnx.load_model_from_string(UNIT.onnx.proto)
    found = attribute(network(UNIT), graph, built.layers, [None] * len(built.layers))
    assert found.parts == {}


def test_shares_of_another_whole_keep_their_proportions():
    shares = Shares({"a": 2.0, "b": 1.0}, {"t": {"int8": 0.5}}, 0.5)
    doubled = shares.adding_up_to(8.0)
    assert doubled == Shares({"a": 4.0, "b": 2.0}, {"t": {"int8": 1.0}}, 1.0)
    nothing = Shares({}, {}, 0.0)
    assert nothing.adding_up_to(8.0) == nothing
