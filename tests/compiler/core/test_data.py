from __future__ import annotations

import numpy as np
import pytest

from rtc.compiler.core.data import Preprocess, Split, WholeBatches, filled

RAW = np.arange(7 * 4 * 5, dtype=np.uint8).reshape(7, 4, 5)
SPLIT = Split("test", RAW, np.arange(7), Preprocess(scale=0.5, layout="hw"))


def test_samples_become_what_a_model_takes() -> None:
    colours = RAW[:2, :, :, None].repeat(3, axis=3)
    made = Preprocess(1 / 255, (0.1, 0.2, 0.3), (0.5, 0.4, 0.2), "hwc")(colours)
    assert made.shape == (2, 3, 4, 5)
    assert made.dtype == np.float32
    assert made.flags.c_contiguous
    wanted = (RAW[1, 2, 3] / 255 - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 0.4, 0.2])
    np.testing.assert_allclose(made[1, :, 2, 3], wanted, rtol=1e-5)
    assert Preprocess(layout="hw")(RAW).shape == (7, 1, 4, 5)
    assert Preprocess(layout="chw")(RAW[:, None]).shape == (7, 1, 4, 5)
    np.testing.assert_array_equal(Preprocess()(RAW), RAW.astype(np.float32))


def test_batches_hold_every_sample_once_and_in_order() -> None:
    batches = list(SPLIT.batches(3))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(batches), SPLIT.inputs())


def test_a_batch_that_a_model_fixes_goes_before_what_is_asked() -> None:
    starts = [(start, len(batch)) for start, batch in SPLIT.batches_for(2, 5)]
    assert starts == [(0, 2), (2, 2), (4, 2)]
    assert [start for start, _ in SPLIT.batches_for(None, 5)] == [0, 5]


@pytest.mark.parametrize(("count", "whole", "held"), [(3, 1, 3), (3, 2, 4), (9, 1, 7)])
def test_a_head_is_whole_batches(count: int, whole: int, held: int) -> None:
    part = Split("test", RAW, SPLIT.labels, SPLIT.preprocess, whole).head(count)
    assert len(part) == held
    assert part.labels is not None
    assert len(part.labels) == held


def test_splits_for_a_model_that_fixes_its_batch() -> None:
    class Three:
        classes, digest = 7, "sha256:x"
        train = calibration = test = SPLIT

    data = WholeBatches(Three(), 4)
    assert (data.classes, data.digest) == (7, "sha256:x")
    assert {part.whole for part in (data.train, data.calibration, data.test)} == {4}
    assert len(data.test.head(1)) == 4


def test_samples_are_taken_again_until_batches_are_full() -> None:
    assert filled(RAW, 7) is RAW
    made = filled(RAW[:3], 8)
    np.testing.assert_array_equal(made, RAW[[0, 1, 2, 0, 1, 2, 0, 1]])
