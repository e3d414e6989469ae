import numpy as np
import pytest
from check_pass import parse

from rtc.calibration.collect import collect
from rtc.compiler.core.data import Preprocess, Split
from rtc.compiler.core.errors import DataError, RecipeError
from rtc.compiler.core.passes import Observation


def split_of(values):
    return Split("calibration", np.asarray(values, np.float32), None, Preprocess())


def observe(*tensors, kind="minmax"):
    return frozenset(Observation(tensor, kind) for tensor in tensors)


UNIT = parse("""g (float[N,2] x) => (float[N,2] y) <float[2] w = {1, -2}> {
    [scale] a = Mul(x, w)
    [root] b = Sqrt(a)
    [clip] y = Relu(a)
}""")


def test_inputs_inner_tensors_and_outputs_are_observed_over_all_batches():
    values = np.linspace(-1, 1, 80).reshape(40, 2)
    seen = collect(UNIT.onnx.proto, observe("x", "a", "y"), split_of(values))
    assert sorted(seen) == ["a", "x", "y"]
    assert (seen["x"].low, seen["x"].high) == (-1.0, 1.0)
    assert seen["a"].low == pytest.approx(-2.0)
    assert (seen["y"].low, seen["y"].samples) == (0.0, 40)


def test_progress_ends_at_the_number_of_samples():
    steps = []
    collect(
        UNIT.onnx.proto,
        observe("a"),
        split_of(np.ones((40, 2))),
        lambda done, total, found="": steps.append((done, total)),
    )
    assert steps == [(16, 40), (32, 40), (40, 40)]


def test_a_nan_activation_names_its_layer_and_sample():
    values = np.array([[1.0, -1.0]] * 20 + [[-4.0, 0.0]] + [[1.0, -1.0]] * 5)
    with pytest.raises(DataError) as error:
        collect(UNIT.onnx.proto, observe("a", "b"), split_of(values))
    assert error.value.id == "not-finite-activation"
    assert error.value.where == "layer root"
    assert error.value.seen == "tensor b, calibration sample 20"


def test_a_dead_tensor_gets_a_range_all_the_same():
    seen = collect(UNIT.onnx.proto, observe("y", kind="percentile"), split_of(np.zeros((4, 2))))
    assert seen["y"].low < seen["y"].high
    assert (seen["y"].seen_low, seen["y"].seen_high) == (0.0, 0.0)


def test_nothing_to_observe_reads_nothing():
    assert collect(b"", frozenset(), split_of(np.zeros((4, 2)))) == {}


def test_an_unknown_observer_is_a_recipe_error():
    with pytest.raises(RecipeError):
        collect(UNIT.onnx.proto, observe("a", kind="median"), split_of(np.zeros((4, 2))))


def test_samples_of_another_shape_are_a_data_error():
    with pytest.raises(DataError) as error:
        collect(UNIT.onnx.proto, observe("a"), split_of(np.zeros((4, 3))))
    assert (error.value.id, error.value.seen, error.value.expected) == ("wrong-shape", "3", "2")


def test_one_number_for_a_whole_batch_has_a_range_as_well():
    unit = parse("""g (float[N,2] x) => (float[N,2] y) {
        m = ReduceMax<keepdims = 0>(x)
        y = Add(x, m)
    }""")
    seen = collect(unit.onnx.proto, observe("m"), split_of(np.linspace(-1, 3, 80).reshape(40, 2)))
    assert seen["m"].high == 3.0
