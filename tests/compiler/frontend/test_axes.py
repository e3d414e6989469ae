from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from check_pass import unit_of
from onnx import numpy_helper

from rtc.calibration.oracle import Oracle
from rtc.compiler.core.errors import ModelError
from rtc.compiler.core.unit import Unit
from rtc.compiler.frontend.axes import settled
from rtc.compiler.frontend.independence import NotAlone, check_alone

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'
BATCH = "g (float[N,6] x) => (float[N,3] y) { y = MatMul(x, w) }"
OVER_SAMPLES = "g (float[T,6] x) => (float[T,3] y) { a = MatMul(x, w) y = Softmax<axis=0>(a) }"
CENTRED = """
g (float[T,6] x) => (float[T,3] y) {
  a = MatMul(x, w)
  [mean] m = ReduceMean<axes=[0], keepdims=1>(a)
  [scaled] s = Mul(m, small)
  y = Add(a, s)
}
"""
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
RESHAPED = """
g (float[4,2,3] x) => (float[4,3] y) {
  rows = Reshape(x, eight_rows)
  kept = Relu(rows)
  again = Reshape<allowzero=1>(kept, four_by_two)
  f = Reshape(again, shape)
  y = MatMul(f, w)
}
"""
TRAINING = """
g (float[N,6] x) => (float[N,3] y) {
  a = MatMul(x, w)
  [norm] b, rm, rv = BatchNormalization<training_mode=1>(a, b1, b0, b0, b1)
  y = Relu(b)
}
"""
RANDOM = """
g (float[N,6] x) => (float[N,3] y) {
  a = MatMul(x, w)
  [noise] drawn = RandomNormalLike<scale=0.1>(a)
  y = Add(a, drawn)
}
"""
DYNAMIC = """
g (float[N,6] x) => (float[N,3] y) {
  q, s, z = DynamicQuantizeLinear(x)
  i = MatMulInteger(q, wi, z)
  f = Cast<to=1>(i)
  y = Mul(f, s)
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


def test_one_sample_in_a_thousand_of_the_answer_is_seen() -> None:
    """A dependence far below what any tolerance between batches would find."""
    text = CENTRED.replace("s = Mul(m, small)", "t = Mul(m, small) s = Mul(t, small)")
    with pytest.raises(NotAlone) as found:
        check_alone(model(text), SAMPLES, 8, (1,))
    assert found.value.kind == "neighbours"


def test_batch_norm_that_trains_is_named() -> None:
    with pytest.raises(ModelError, match=r"norm \(BatchNormalization\).*model.eval"):
        settled(model(TRAINING), SAMPLES, 4)


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


def test_what_looks_things_up_by_its_input_is_not_shown_other_numbers() -> None:
    """No row stands for a number that no sample holds; mixing beside real ones is still seen."""
    ids = np.random.default_rng(0).integers(0, 5, (16, 6)).astype(np.float32)
    look = "i = Cast<to=7>(x) e = Gather(table, i) p = ReduceMean<axes=[1], keepdims=0>(e)"
    table = "<float[5,3] table = {0,1,2, 3,4,5, 6,8,7, 9,1,3, 2,7,4}>"
    given = f"{HEAD}g (float[N,6] x) => (float[N,3] y) {table} {{ {look} "
    unit = unit_of(onnx.parser.parse_model(given + "y = Relu(p) }").SerializeToString())
    assert first(settled(unit, ids, 4).unit) == "N"
    text = given + "m = ReduceMean<axes=[0], keepdims=1>(p) y = Sub(p, m) }"
    mixing = unit_of(onnx.parser.parse_model(text).SerializeToString())
    with pytest.raises(ModelError) as refused:
        settled(mixing, ids, 4)
    assert refused.value.id == "samples-depend"


@pytest.mark.parametrize("batch", [1, 4])
def test_chance_is_not_taken_for_dependence(batch: int) -> None:
    with pytest.raises(ModelError, match="noise") as refused:
        settled(model(RANDOM), SAMPLES, batch)
    assert refused.value.id == "not-deterministic"


def test_ranges_of_the_whole_batch_are_no_other_axis() -> None:
    unit = model(DYNAMIC)
    found = settled(unit, SAMPLES, 4)
    assert first(found.unit) == "N"
    (note,) = found.notes
    assert "range of the whole batch" in note


def test_what_is_not_finite_is_no_dependence() -> None:
    samples = SAMPLES.copy()
    samples[3] = np.inf
    assert settled(model(BATCH), samples, 4).notes == ()


def test_a_fixed_batch_that_can_be_freed_is() -> None:
    found = settled(model(BATCH.replace("N", "4")), SAMPLES, 2)
    assert first(found.unit) == "batch"
    assert found.notes == ()


@pytest.mark.parametrize("batch", [1, 2, 16])
def test_a_batch_in_the_constants_of_reshapes_is_freed(batch: int) -> None:
    unit = model(RESHAPED)
    found = settled(unit, CUBES, batch)
    assert first(found.unit) == "batch"
    assert found.notes == ()
    with Oracle(unit.onnx.proto) as before, Oracle(found.unit.onnx.proto) as after:
        wanted = np.concatenate([before.run(CUBES[i : i + 4])["y"] for i in range(0, 16, 4)])
        np.testing.assert_allclose(after.run(CUBES)["y"], wanted, rtol=1e-5, atol=1e-6)


def test_a_fixed_batch_stays_where_it_is_the_recipes() -> None:
    found = settled(model(BAKED.format(batch=4)), CUBES, 4)
    assert first(found.unit) == 4
    (note,) = found.notes
    assert "fixed to 4" in note
    assert "no latency at batch 1" in note
    assert "(a batch of 8 fails: Concat: Non concat axis dimensions must match" in note
    assert note.endswith("; export it with a dynamic batch axis for others.")


def test_another_fixed_batch_than_the_recipes_names_both() -> None:
    with pytest.raises(ModelError, match="set batch: 4 in the recipe") as refused:
        settled(model(BAKED.format(batch=4)), CUBES, 8)
    assert refused.value.id == "fixed-batch"
    assert refused.value.seen == "batch: 8 in the recipe"


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


def test_a_fixed_batch_whose_samples_depend_on_each_other_is_refused() -> None:
    with pytest.raises(ModelError) as refused:
        settled(model(OVER_SAMPLES.replace("T", "4")), SAMPLES, 4)
    assert refused.value.id == "samples-depend"


def test_a_fixed_batch_of_one_that_cannot_be_freed_stays() -> None:
    unit = model(ROWS.replace("T", "1"))
    found = settled(unit, SAMPLES, 1)
    assert first(found.unit) == 1
    assert len(found.notes) == 1


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
