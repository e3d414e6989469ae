"""Whether a model wants its samples prepared otherwise than a recipe does.

Splits that are all prepared alike tell nothing of a mistake that was made with all of them; the
model does, for it knows what it was trained on. Labelled samples are classified as they are
prepared and as each known mistake would have them; one that makes top-1 better beyond doubt is
named.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rtc.calibration.oracle import Oracle
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.data import Split
from rtc.compiler.core.intervals import Interval, wilson

_SAMPLES = 128
_BATCH = 16
_IMAGENET = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@dataclass(frozen=True)
class Better:
    """Another preparation: its name, and top-1 as prepared and as the model would have it."""

    name: str
    before: Interval
    after: Interval


def better_preparation(proto: bytes, split: Split) -> Better | None:
    """What the model wants done to the samples; None where nothing known is surely better.

    Without labels, or where the model's input is not (n, channels, …), nothing can be told.
    """
    few = split.head(_SAMPLES)
    if few.labels is None or few.inputs(0, 1).ndim < 3:
        return None
    inputs, labels = few.inputs(), few.labels
    with Oracle(proto) as oracle:
        if oracle.batch:
            end = len(inputs) // oracle.batch * oracle.batch
            inputs, labels = inputs[:end], labels[:end]
        if not len(inputs):
            return None
        before = _top1(oracle, inputs, labels)
        better = [
            Better(name, before, _top1(oracle, changed.astype(np.float32), labels))
            for name, changed in _otherwise(inputs, few)
        ]
    best = max(better, key=lambda each: each.after.value)
    return best if best.after.low > before.high else None


def _top1(oracle: Oracle, inputs: Array, labels: Array) -> Interval:
    size, first = oracle.batch or _BATCH, oracle.outputs[0]
    logits = [oracle.run(inputs[i : i + size])[first] for i in range(0, len(inputs), size)]
    right = np.concatenate(logits).argmax(axis=1) == labels
    return wilson(int(np.count_nonzero(right)), len(right))


def _otherwise(inputs: Array, split: Split) -> Iterator[tuple[str, Array]]:
    """The samples as each mistake would have them if it were none, in words for the recipe."""
    own = split.preprocess
    channels = (1, -1, *(1 for _ in range(inputs.ndim - 2)))
    mean, std = (np.asarray(each, np.float64).reshape(channels) for each in (own.mean, own.std))
    scaled = inputs * std + mean
    if inputs.shape[1] == 3:
        yield "channels in the other order (BGR for RGB)", inputs[:, ::-1]
    yield "values 255 times smaller (0-1 for 0-255)", (scaled / 255 - mean) / std
    yield "values 255 times larger (0-255 for 0-1)", (scaled * 255 - mean) / std
    if np.any(mean != 0) or np.any(std != 1):
        yield "no mean and std", scaled
    if inputs.shape[1] == 3:
        imagenet = [each.reshape(channels) for each in _IMAGENET]
        unit = scaled / 255 if np.abs(scaled).max() > 2 else scaled
        normalised = (unit - imagenet[0]) / imagenet[1]
        yield "ImageNet's mean and std on 0-1", normalised
        yield "ImageNet's mean and std on 0-1, and BGR for RGB", normalised[:, ::-1]
