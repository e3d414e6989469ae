import numpy as np
import pytest
from check_pass import parse
from rounded_models import run

from rtc.calibration.oracle import Oracle, evaluate, kind_of, with_outputs
from rtc.compiler.core.data import Preprocess, Split
from rtc.compiler.core.errors import ModelError
from rtc.compiler.core.outputs import OutputKind


def test_unoptimised_pad_before_max_pool_keeps_its_zeros():
    """What optimised ONNX Runtime has been seen to get wrong."""
    unit = parse("""g (float[N,1,2,2] x) => (float[N,1,2,2] y) <int64[8] p = {0,0,1,1,0,0,1,1}> {
        a = Pad(x, p)
        y = MaxPool<kernel_shape = [2,2], strides = [2,2]>(a)
    }""")
    assert run(unit, np.full((1, 1, 2, 2), -1.0))["y"].max() == 0.0


def test_inner_tensors_can_be_asked_for():
    unit = parse("g (float[N,2] x) => (float[N,2] y) { a = Neg(x)\n y = Relu(a) }")
    with Oracle(with_outputs(unit.onnx.proto, ["a"]), ["a"]) as oracle:
        assert list(oracle.run(np.ones((1, 2), np.float32))) == ["a"]


def test_batches_follow_a_fixed_batch():
    split = Split("some", np.zeros((10, 2), np.float32), None, Preprocess())
    for batch, sizes in (("N", [4, 4, 2]), ("3", [3, 3, 3])):
        unit = parse(f"g (float[{batch},2] x) => (float[{batch},2] y) {{ y = Neg(x) }}")
        with Oracle(unit.onnx.proto) as oracle:
            assert [len(inputs) for _, inputs in oracle.batches(split, 4)] == sizes


@pytest.mark.parametrize("batch", ["N", 1, 16, 24, 64])
@pytest.mark.parametrize("samples", [1, 20, 40, 100])
def test_what_a_model_gives_is_told_at_every_batch_that_it_fixes(batch, samples):
    kinds = {
        "y = Softmax(x)": OutputKind.PROBABILITIES,
        "y = LogSoftmax(x)": OutputKind.LOG_PROBABILITIES,
        "y = Neg(x)": OutputKind.LOGITS,
    }
    values = np.random.default_rng(0).standard_normal((samples, 5)).astype(np.float32)
    split = Split("some", values, None, Preprocess())
    for body, kind in kinds.items():
        unit = parse(f"g (float[{batch},5] x) => (float[{batch},5] y) {{ {body} }}")
        assert kind_of(unit.onnx.proto, split) is kind


def test_a_model_without_inputs_is_evaluated():
    unit = parse("g () => (float[2] y) <float[2] w = {1, 2}> { y = Neg(w) }")
    assert evaluate(unit.onnx.proto)[0].tolist() == [-1, -2]


def test_a_model_that_does_not_load_is_a_model_error():
    with pytest.raises(ModelError) as error:
        Oracle(b"\x08\x07")
    assert error.value.id == "model-not-loadable"
