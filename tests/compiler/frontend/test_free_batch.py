"""Batches that a model fixes, and may be freed."""

from __future__ import annotations

import numpy as np
import pytest
from batches_of_models import (
    BAKED,
    BATCH,
    CUBES,
    OVER_SAMPLES,
    ROWS,
    SAMPLES,
    first,
    model,
)

from rtc.calibration.oracle import Oracle
from rtc.compiler.core.errors import ModelError
from rtc.compiler.frontend.axes import settled

RESHAPED = """
g (float[4,2,3] x) => (float[4,3] y) {
  rows = Reshape(x, eight_rows)
  kept = Relu(rows)
  again = Reshape<allowzero=1>(kept, four_by_two)
  f = Reshape(again, shape)
  y = MatMul(f, w)
}
"""


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


def test_a_fixed_batch_whose_samples_depend_on_each_other_is_refused() -> None:
    with pytest.raises(ModelError) as refused:
        settled(model(OVER_SAMPLES.replace("T", "4")), SAMPLES, 4)
    assert refused.value.id == "samples-depend"


def test_a_fixed_batch_of_one_that_cannot_be_freed_stays() -> None:
    unit = model(ROWS.replace("T", "1"))
    found = settled(unit, SAMPLES, 1)
    assert first(found.unit) == 1
    assert len(found.notes) == 1
