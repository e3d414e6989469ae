from __future__ import annotations

import pytest

from rtc.compiler.core.limits import at_least, at_most


@pytest.mark.parametrize("samples", [3, 7, 180, 4999])
def test_a_drop_of_exactly_the_limit_keeps_it_however_it_was_computed(samples: int) -> None:
    for right in range(0, samples, max(1, samples // 50)):
        drop = (samples - right) / samples
        same = 1.0 - right / samples
        assert at_most(drop, same)
        assert at_least(drop, same)


def test_one_sample_more_breaks_it() -> None:
    assert not at_most(2 / 10_000, 1 / 10_000)
    assert not at_least(9_800 / 10_000, 9_801 / 10_000)
    assert not at_most(float("nan"), 1.0)
    assert not at_least(float("nan"), 0.0)
