"""Real digits in small numbers, for tests that train."""

from __future__ import annotations

from dataclasses import replace

from rtc.calibration.data import load_splits
from rtc.compiler.core.data import Split, Splits
from rtc.compiler.core.passes import PassContext
from rtc.compiler.core.unit import Unit
from rtc.passes.torch.torch_module import source_unit
from rtc.recipes.datasets.mnist import mnist5k

TEACHER = "rtc.recipes.models.lenet5:teacher"
STUDENT = "rtc.recipes.models.lenet5:student"


def few_digits(count: int = 1000) -> Splits:
    """`count` digits, as many of each class: 60 % to train, 20 % to validate, 20 % to test."""
    whole = mnist5k()
    raw, labels = whole.load()
    assert labels is not None
    step = len(raw) // count  # the table is sorted by label
    few = replace(whole, load=lambda: (raw[::step], labels[::step]), digest=f"{count} digits")
    return load_splits(few, (0.6, 0.2, 0.2), seed=1)


class Untested:
    """Splits whose test samples must not be asked for."""

    def __init__(self, data: Splits) -> None:
        self.digest, self.train, self.calibration = data.digest, data.train, data.calibration

    @property
    def test(self) -> Split:
        raise AssertionError("training looked at the test split")


def lenet(data: Splits, factory: str = TEACHER) -> tuple[Unit, PassContext]:
    """An untrained LeNet-5, and the context to train it in."""
    return source_unit(factory, {}, b"", data.train, seed=3), PassContext(data, seed=3)
