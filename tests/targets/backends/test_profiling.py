from __future__ import annotations

import pytest

from rtc.compiler.core.precision import Precision
from rtc.compiler.core.target import BuiltLayer
from rtc.targets.backends.profiling import by_layer, midmean, repeat


def test_it_repeats_at_least_once_and_at_most_as_often_as_asked() -> None:
    calls: list[int] = []
    assert repeat(lambda: calls.append(1), 0.0) == len(calls) == 1
    assert repeat(lambda: calls.append(1), 60.0, most=7) == 7
    assert len(calls) == 8


def test_the_middle_half_is_deaf_to_outliers() -> None:
    assert midmean([3, 4, 5, 6, 1000, 0, 4, 5]) == pytest.approx(4.5)
    assert midmean([7]) == 7
    assert midmean([1, 2]) == 1.5


def test_times_go_by_names_that_one_layer_has() -> None:
    def layer(name: str) -> BuiltLayer:
        return BuiltLayer(name, "Conv", (), Precision.FP32)

    layers = [layer("a"), layer("b"), layer("twice"), layer("twice")]
    assert by_layer(layers, {"a": 1.5, "twice": 2.5, "c": 3.0}) == (1.5, None, None, None)
