"""Half types, of which OpenVINO takes one for a whole model."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from check_pass import parse
from half_nets import FAR, normal
from openvino_graphs import needs_half, precisions, with_half

from rtc.calibration.oracle import Oracle
from rtc.compiler.building.engines import held
from rtc.compiler.core.data import Preprocess, Split
from rtc.compiler.core.errors import MachineError, ModelError
from rtc.compiler.core.precision import Precision
from rtc.compiler.measure import fidelity
from rtc.targets.backends import openvino
from rtc.targets.backends.openvino import OpenVino
from rtc.targets.loader import profile


@needs_half
def test_the_graph_s_metadata_sets_the_half_type(convnet, digits, request_64):
    half = OpenVino().scheme(profile("cpu")).half
    built = OpenVino().build(with_half(convnet, half), request_64)
    assert built.binding["half"] == half
    found = precisions(built.layers)
    assert {found[name] for name in ("conv1", "conv2", "fc")} == {Precision.HALF}
    with Oracle(built.engine) as oracle, OpenVino().load(built.engine, request_64) as runner:
        wanted = oracle.run(digits)["logits"]
        got = runner.run({"x": digits})["logits"]
    assert not np.array_equal(got, wanted)
    np.testing.assert_allclose(got, wanted, atol=0.02 * np.abs(wanted).max())


@needs_half
def test_integer_layers_stay_integer_among_half_ones(quantised, request_64):
    half = OpenVino().scheme(profile("cpu")).half
    graph = with_half(quantised(("x", "r1", "p1", "r2")), half)
    found = precisions(OpenVino().build(graph, request_64).layers)
    assert found["conv1"] is found["conv2"] is Precision.INT8
    assert found["fc"] is Precision.HALF


@needs_half
def test_an_engine_that_keeps_what_rounding_everywhere_loses_is_right(request_64):
    samples = Split("some", normal(64, 16), None, Preprocess())
    unit, where = parse(FAR), profile("cpu")
    graph = with_half(onnx.load_from_string(unit.onnx.proto), OpenVino().scheme(where).half)
    known = fidelity.probe(graph, unit.onnx.proto, samples, where)
    _, runner = held(OpenVino(), graph, request_64, known)
    with runner:
        got = runner.run({"x": samples.inputs(0, 64)})["y"]
    np.testing.assert_allclose(got, np.maximum(samples.inputs(0, 64), 0), atol=1e-3)


def test_an_unknown_half_type_is_a_model_error(convnet, request_64):
    with pytest.raises(ModelError, match="half type"):
        OpenVino().build(with_half(convnet, "fp4"), request_64)


def test_an_engine_refuses_a_cpu_without_its_half_type(monkeypatch, convnet, request_64):
    class OldCpu:
        def get_property(self, device, name):
            return ["FP32", "INT8"]

    monkeypatch.setattr(openvino, "_core", OldCpu)
    with pytest.raises(MachineError) as caught:
        OpenVino().load(with_half(convnet, "bf16"), request_64)
    assert (caught.value.seen, caught.value.expected) == ("FP32, INT8", "BF16")
