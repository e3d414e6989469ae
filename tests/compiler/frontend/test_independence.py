"""Whether the samples of a batch answer for themselves."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from axes_of_models import CENTRED
from batches_of_models import (
    BATCH,
    HEAD,
    SAMPLES,
    first,
    model,
)
from check_pass import unit_of

from rtc.compiler.core.errors import ModelError
from rtc.compiler.frontend.axes import settled
from rtc.compiler.frontend.independence import NotAlone, check_alone

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


def test_one_sample_in_a_thousand_of_the_answer_is_seen() -> None:
    """A dependence far below what any tolerance between batches would find."""
    text = CENTRED.replace("s = Mul(m, small)", "t = Mul(m, small) s = Mul(t, small)")
    with pytest.raises(NotAlone) as found:
        check_alone(model(text), SAMPLES, 8, (1,))
    assert found.value.kind == "neighbours"


def test_batch_norm_that_trains_is_named() -> None:
    with pytest.raises(ModelError, match=r"norm \(BatchNormalization\).*model.eval"):
        settled(model(TRAINING), SAMPLES, 4)


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
