from __future__ import annotations

import numpy as np
import pytest
from check_pass import parse

from rtc.calibration.held_out import learn_and_judge
from rtc.compiler.core.data import Preprocess, Split

FREE = parse("g (float[N,1] x) => (float[N,1] y) { y = Relu(x) }")
FIXED = parse("g (float[8,1] x) => (float[8,1] y) { y = Relu(x) }")


def split(count: int, *, labels: bool = True) -> Split:
    numbers = np.arange(count)
    return Split(
        "c", numbers[:, None].astype(np.float32), numbers if labels else None, Preprocess()
    )


@pytest.mark.parametrize("labels", [True, False])
def test_no_sample_is_learned_from_and_judged_by(labels: bool) -> None:
    learn, judge = learn_and_judge(split(100, labels=labels), 41, FREE)
    mine, theirs = set(learn.raw[:, 0]), set(judge.raw[:, 0])
    assert not mine & theirs
    assert mine | theirs == set(range(41))
    assert len(judge) == 10
    if labels:
        assert judge.labels is not None
        assert judge.labels.tolist() == judge.raw[:, 0].tolist()
    else:
        assert learn.labels is judge.labels is None


def test_where_a_fourth_fills_no_batch_both_are_all() -> None:
    learn, judge = learn_and_judge(split(31), 512, FIXED)
    assert learn is judge
    assert len(learn) == 31
    learn, judge = learn_and_judge(split(32), 512, FIXED)
    assert (len(learn), len(judge)) == (24, 8)
