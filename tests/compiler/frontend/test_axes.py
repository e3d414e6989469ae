from __future__ import annotations

import numpy as np
import onnx
import pytest
from axes_of_models import CENTRED
from batches_of_models import (
    BAKED,
    BATCH,
    CONSTANTS,
    CUBES,
    HEAD,
    OVER_SAMPLES,
    ROWS,
    SAMPLES,
    first,
    model,
)
from check_pass import unit_of
from onnx import numpy_helper

from rtc.calibration.oracle import Oracle
from rtc.compiler.core.errors import ModelError
from rtc.compiler.frontend.axes import settled

LAGGED = """
g (float[T,6] x) => (float[T,3] y) {
  a = MatMul(x, w)
  padded = Pad(a, ahead)
  before = Slice(padded, zero, minus_two, zero)
  s = Mul(before, small)
  y = Add(a, s)
}
"""
PLACED = """
g (float[T,6] x) => (float[T,3] y) {
  a = MatMul(x, w)
  ones = ReduceMean<axes=[1], keepdims=1>(x)
  zeros = Mul(ones, none)
  units = Add(zeros, one)
  place = CumSum(units, axis)
  s = Mul(place, small)
  y = Add(a, s)
}
"""
ANY_SIZE = """
g (float[N,3,H,W] x) => (float[N,?] y) {
  c = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, k)
  p = GlobalAveragePool(c)
  f = Flatten(p)
  y = MatMul(f, r)
}
"""


def test_a_batch_stays_free_and_not_a_byte_changes() -> None:
    unit = model(BATCH)
    found = settled(unit, SAMPLES, 4)
    assert found.unit.digest == unit.digest
    assert found.notes == ()


@pytest.mark.parametrize(
    ("text", "node"),
    [
        (OVER_SAMPLES, "Softmax"),
        (CENTRED, "y (Add)"),
        (LAGGED, "before (Slice)"),
        (PLACED, ""),
        (ROWS, ""),
    ],
)
def test_an_axis_that_is_no_batch_is_refused_with_what_was_seen(text: str, node: str) -> None:
    with pytest.raises(ModelError) as refused:
        settled(model(text), SAMPLES, 4)
    assert refused.value.id == "samples-depend"
    assert node in refused.value.where
    assert "%" in refused.value.seen or "shape" in refused.value.seen
    assert "batch: 1" in refused.value.fix


@pytest.mark.parametrize("text", [OVER_SAMPLES, CENTRED, LAGGED, PLACED, ROWS])
def test_one_sample_at_a_time_is_what_such_a_model_can_be_compiled_for(text: str) -> None:
    unit = model(text)
    found = settled(unit, SAMPLES, 1)
    assert found.unit.signature.inputs[0].shape == (1, 6)
    assert found.unit.signature.outputs[0].shape == (1, 3)
    (note,) = found.notes
    assert "Axis 0 of x is no batch" in note
    with Oracle(unit.onnx.proto) as before, Oracle(found.unit.onnx.proto) as after:
        for sample in SAMPLES[:3]:
            np.testing.assert_array_equal(
                after.run(sample[None])["y"], before.run(sample[None])["y"]
            )


@pytest.mark.parametrize("batch", [1, 4])
def test_batch_norm_that_trains_is_to_be_exported_for_inference(batch: int) -> None:
    """Rows mix in it, which another axis would not mend, nor would one sample at a time."""
    text = """g (float[N,6] x) => (float[N,3] y)
    <float[3] mean = {0, 0, 0}, float[3] variance = {1, 1, 1}> {
        a = MatMul(x, w)
        [norm] b, rm, rv = BatchNormalization<training_mode=1>(a, b1, b0, mean, variance)
        y = Relu(b)
    }"""
    with pytest.raises(ModelError, match=r"norm \(BatchNormalization\)") as refused:
        settled(model(text), SAMPLES, batch)
    assert refused.value.id == "samples-depend"
    assert "model.eval()" in refused.value.fix
    assert "batch axis" not in refused.value.fix


def test_a_batch_that_is_free_by_its_name_only_is_the_recipes_or_refused() -> None:
    unit = model(BAKED.format(batch="N"))
    found = settled(unit, CUBES, 4)
    assert first(found.unit) == 4
    assert "Compiled for batches of 4" in found.notes[0]
    with pytest.raises(ModelError, match="does not run on the samples"):
        settled(unit, CUBES, 8)


def test_a_batch_that_is_free_by_its_name_only_may_be_larger_than_the_samples_looked_at() -> None:
    text = "g (float[N,6] x) => (float[N,3] y) { c = Concat<axis=1>(x, ones) y = MatMul(c, w8) }"
    made = onnx.parser.parse_model(HEAD + text)
    values = {"ones": np.ones((96, 2), np.float32), "w8": CONSTANTS["w8"]}
    made.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in values.items())
    found = settled(unit_of(made.SerializeToString()), SAMPLES, 96)
    assert first(found.unit) == 96
    assert "Compiled for batches of 96" in found.notes[0]


def test_height_and_width_are_those_of_the_samples() -> None:
    images = np.random.default_rng(2).normal(size=(16, 3, 9, 7)).astype(np.float32)
    found = settled(model(ANY_SIZE), images, 4)
    assert found.unit.signature.inputs[0].shape == ("N", 3, 9, 7)
    assert found.unit.signature.outputs[0].shape == ("N", 5)
    known = {v.name: v for v in onnx.load_from_string(found.unit.onnx.proto).graph.value_info}
    assert [d.dim_value for d in known["c"].type.tensor_type.shape.dim][1:] == [4, 9, 7]


def test_a_branch_that_the_samples_own_size_decides_is_inlined() -> None:
    unit = model("""g (float[N,K,4] x) => (float[N,L] y)
    <int64 single = {1}, int64[1] second = {1}> {
        s = Shape(x)
        n = Gather(s, single)
        alone = Equal(n, single)
        q = If(alone) <
            then_branch = then () => (float[N,4] t) { t = Squeeze(x, second) },
            else_branch = otherwise () => (float[N,M,4] e) { e = Identity(x) }>
        y = Flatten(q)
    }""")
    found = settled(unit, SAMPLES[:, None, :4], 4).unit
    graph = onnx.load_model_from_string(found.onnx.proto).graph
    assert [node.op_type for node in graph.node][-2:] == ["Squeeze", "Flatten"]
    assert found.signature.outputs[0].shape == ("N", 4)


POOLED = """
g (float[{batch},3,{h},{w}] x) => (float[{batch},{out}] y) {{
  c = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, k)
  {end}
}}
"""


@pytest.mark.parametrize("batch", ["N", "8"])
@pytest.mark.parametrize(
    ("end", "out", "came"),
    [
        ("y = GlobalAveragePool(c)", "4,1,1", "4, 1, 1"),
        ("p = GlobalAveragePool(c) y = Transpose<perm=[0,2,3,1]>(p)", "1,1,4", "1, 1, 4"),
        ("f = Flatten(c) y = Unsqueeze(f, second)", "1,F", "1, 252"),
        ("y = MaxPool<kernel_shape=[9,7]>(c)", "4,P,Q", "4, 1, 1"),
    ],
)
def test_axes_of_one_beside_the_classes_are_flattened(
    batch: str, end: str, out: str, came: str
) -> None:
    images = np.random.default_rng(2).normal(size=(16, 3, 9, 7)).astype(np.float32)
    sizes = ("H", "W") if "MaxPool" in end else (9, 7)
    unit = model(POOLED.format(batch=batch, h=sizes[0], w=sizes[1], out=out, end=end))
    assert len(unit.signature.outputs[0].shape) > 2
    found = settled(unit, images, 4)
    name, first = found.unit.signature.outputs[0].name, found.unit.signature.inputs[0].shape[0]
    classes = int(max(came.split(", "), key=int))
    assert found.unit.signature.outputs[0].shape == (first, classes)
    assert found.notes == (
        f"The output {name} came as ({batch}, {came}); engines give ({batch}, {classes}).",
    )
    with Oracle(unit.onnx.proto) as before, Oracle(found.unit.onnx.proto) as after:
        wanted = before.run(images[:8])["y"].reshape(8, classes)
        np.testing.assert_array_equal(after.run(images[:8])["y"], wanted)


def test_axes_beside_the_classes_that_are_not_one_are_refused() -> None:
    images = np.random.default_rng(2).normal(size=(16, 3, 9, 7)).astype(np.float32)
    unit = model(POOLED.format(batch="N", h="H", w="W", out="4,P,Q", end="y = Relu(c)"))
    with pytest.raises(ModelError, match="not a classifier's") as refused:
        settled(unit, images, 4)
    assert "(N, 4, 9, 7)" in refused.value.seen
