"""Samples to learn a repair from, and others to judge it by."""

from __future__ import annotations

from rtc.compiler.core.data import Split
from rtc.compiler.core.unit import Unit

_EVERY = 4


def learn_and_judge(split: Split, samples: int, unit: Unit) -> tuple[Split, Split]:
    """At most `samples` of a split: three of four to learn from, the fourth to judge by.

    Where the fourth would not fill one batch of a unit that fixes it, both are all the samples.
    """
    split, first = split.head(samples), unit.signature.inputs[0].shape[0]
    batch = first if isinstance(first, int) else 1
    if len(split) // _EVERY < batch:
        return split, split
    judged = [i % _EVERY == _EVERY - 1 for i in range(len(split))]
    return _part(split, [not is_judged for is_judged in judged]), _part(split, judged)


def _part(split: Split, chosen: list[bool]) -> Split:
    labels = None if split.labels is None else split.labels[chosen]
    return Split(split.name, split.raw[chosen], labels, split.preprocess)
