"""Models that came with quantised Concats: OpenVINO crashes on some and miscomputes others."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from check_pass import parse, unit_of

from rtc.calibration.oracle import Oracle
from rtc.compiler.building.engines import built_by_outcome, built_from_files, built_to_files, held
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.data import Preprocess, Split
from rtc.compiler.core.errors import BuilderError
from rtc.compiler.core.operators import HALF_KEY
from rtc.compiler.core.precision import Precision
from rtc.compiler.core.target import BuildRequest, Built
from rtc.compiler.documents.build_json import REQUEST
from rtc.compiler.measure import fidelity
from rtc.compiler.process import sandbox
from rtc.compiler.search.workbench import Runtime
from rtc.targets.backends.joined import apart
from rtc.targets.backends.openvino import OpenVino
from rtc.targets.loader import profile

REQUEST_4 = BuildRequest(profile("cpu"), (1, 4, 4), threads=1)
X = np.random.default_rng(1).normal(size=(24, 8, 6, 6)).astype(np.float32)
READERS = {
    "requantised": "rq = QuantizeLinear(jd, s, zo) rd = DequantizeLinear(rq, s, zo)"
    " [next] y = Conv(rd, w3d)",
    "multiplied": "[next] y = Conv(jd, w3d)",
    "both": "rq = QuantizeLinear(jd, s, zo) rd = DequantizeLinear(rq, s, zo)"
    " [next] n = Conv(rd, w3d) m = Conv(jd, w3d) y = Add(n, m)",
}
ZEROS = {"u128": np.uint8(128), "u117": np.uint8(117), "i0": np.int8(0), "i5": np.int8(5)}
FAILS = {
    *(("requantised", zero) for zero in ("u128", "u117", "i5")),
    *((readers, zero) for readers in ("multiplied", "both") for zero in ("i0", "i5")),
}


def model(readers: str, zero: str) -> bytes:
    draw = np.random.default_rng(0)

    def weights(*shape: int) -> Array:  # neighbours leave room for sums in 16 bits
        return draw.integers(-60, 60, shape, np.int8)

    text = f"""dense (float[N,8,6,6] x) => (float[N,16,6,6] y) {{
      xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z)
      w1d = DequantizeLinear(w1, ws, wz) w2d = DequantizeLinear(w2, ws, wz)
      w3d = DequantizeLinear(w3, ws, wz)
      [left] a0 = Conv(xd, w1d) [right] b0 = Conv(xd, w2d)
      aq = QuantizeLinear(a0, s, z) a = DequantizeLinear(aq, s, z)
      bq = QuantizeLinear(b0, s, z) b = DequantizeLinear(bq, s, z)
      [join] j = Concat<axis=1>(a, b)
      jq = QuantizeLinear(j, s, z) jd = DequantizeLinear(jq, s, z)
      {READERS[readers]}
    }}"""
    return parse(
        text,
        w1=weights(8, 8, 1, 1),
        w2=weights(8, 8, 1, 1),
        w3=weights(16, 16, 1, 1),
        ws=np.float32(0.01),
        wz=np.int8(0),
        s=np.float32(0.03),
        z=ZEROS[zero],
        zo=np.uint8(3),
    ).onnx.proto


def in_a_child(graph: bytes, known: fidelity.Probe) -> Built:
    files = sandbox.run(
        "rtc.compiler.building.engines:build_here",
        files={"graph.onnx": graph, fidelity.FILE: fidelity.packed(known)},
        args={"backend": "openvino", "request": REQUEST.dump_python(REQUEST_4, mode="json")},
        deadline_s=120.0,
        what="building",
    )
    return built_from_files(files)


@pytest.mark.parametrize("zero", ZEROS)
@pytest.mark.parametrize("readers", READERS)
def test_the_other_form_computes_the_same_bit_for_bit(readers: str, zero: str) -> None:
    proto = model(readers, zero)
    other = onnx.load_from_string(proto)
    assert apart(other)
    onnx.checker.check_model(other, full_check=True)
    with Oracle(proto) as before, Oracle(other.SerializeToString()) as after:
        np.testing.assert_array_equal(after.run(X)["y"], before.run(X)["y"])


def test_a_graph_without_quantised_concats_has_no_other_form() -> None:
    unit = parse("g (float[N,2] x) => (float[N,4] y) { y = Concat<axis=1>(x, x) }")
    assert list(OpenVino().instead(unit.onnx.proto)) == []


def test_float_layers_beside_integers_may_stay_float32() -> None:
    asking = onnx.load_from_string(model("multiplied", "u128"))
    onnx.helper.set_model_props(asking, {HALF_KEY: "bf16", "mine": "kept"})
    *_, (other, words) = OpenVino().instead(asking.SerializeToString())
    assert words == "with its float layers in float32"
    made = onnx.load_from_string(other)
    assert {entry.key: entry.value for entry in made.metadata_props} == {"mine": "kept"}
    plain = parse("g (float[N,2] x) => (float[N,2] y) { y = Relu(x) }").onnx.proto
    alone = onnx.load_from_string(plain)
    onnx.helper.set_model_props(alone, {HALF_KEY: "bf16"})
    assert list(OpenVino().instead(alone.SerializeToString())) == []


@pytest.mark.parametrize("zero", ZEROS)
@pytest.mark.parametrize("readers", READERS)
def test_an_engine_is_built_by_outcome(readers: str, zero: str) -> None:
    proto = model(readers, zero)
    known = fidelity.probe(proto, proto, Split("some", X, None, Preprocess()), profile("cpu"))
    built = built_by_outcome(OpenVino(), proto, lambda graph: in_a_child(graph, known))
    fails = (readers, zero) in FAILS
    assert ["Concats stored as uint8" in note for note in built.notes] == [True] * fails
    integer = {n for b in built.layers if b.precision is Precision.INT8 for n in b.onnx_nodes}
    assert {"left", "right", "next"} <= integer
    again, runner = held(OpenVino(), built.engine, REQUEST_4, known)
    runner.close()
    assert again.forms == built.forms
    assert built_from_files(built_to_files(built)) == built  # its notes, too


def test_a_crash_of_a_trial_is_survived_as_well() -> None:
    unit, split = unit_of(model("requantised", "u117")), Split("some", X, None, Preprocess())
    known = fidelity.probe(unit.onnx.proto, unit.onnx.proto, split, profile("cpu"))
    with Runtime(OpenVino(), REQUEST_4, split) as runtime:
        built = runtime.build(unit, known)
        assert len(built.notes) == 1
        assert runtime.logits().shape == (24, 16, 6, 6)


def test_where_no_form_works_the_first_error_stands() -> None:
    def build(_: bytes) -> Built:
        raise BuilderError(f"failed {next(count)}", id="crashed")

    count = iter(range(10))
    with pytest.raises(BuilderError, match="failed 0"):
        built_by_outcome(OpenVino(), model("both", "i0"), build)
    assert next(count) == 2


def test_an_error_that_another_graph_would_meet_as_well_is_not_tried_again() -> None:
    def build(_: bytes) -> Built:
        raise BuilderError(f"failed {next(count)}", id="deadline")

    count = iter(range(10))
    with pytest.raises(BuilderError, match="failed 0"):
        built_by_outcome(OpenVino(), model("both", "i0"), build)
    assert next(count) == 1
