"""What may be wrong with calibration samples, each fault by name.

Faults: `duplicates`, `overlap` (with the test set), `constant`, `saturated`, `normalisation` (not
the other samples'), `preparation` (not what the model wants), `classes-missing`,
`unstable-scales`, `too-few-samples`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rtc.calibration.normalisation import mistake, moments
from rtc.calibration.preparation import better_preparation
from rtc.calibration.stability import LEAST, TYPICAL, WORST, Stability, stability
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.data import Split, Splits
from rtc.compiler.core.errors import DataError
from rtc.compiler.core.passes import Observation
from rtc.compiler.core.progress import Progress, silent

_BATCH = 64
_LISTED = 5
_SATURATED = 0.1  # of the values at one extreme, beyond what the reference has


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: its name, what was seen, and what to do about it."""

    name: str
    seen: str
    fix: str


@dataclass(frozen=True)
class Audit:
    """All that was found; `reference` names the split that the samples were compared with."""

    samples: int
    reference: str
    faults: tuple[Fault, ...]
    stability: Stability


def audit(
    data: Splits,
    classes: int,
    proto: bytes,
    observations: frozenset[Observation],
    progress: Progress = silent,
) -> Audit:
    """Examine the calibration samples, alone, beside the others, and in the float model."""
    split = data.calibration
    reference = _reference(data)
    stable = stability(proto, observations, split, progress)
    faults = (
        *_repeated(split, data.test),
        *_flat(split, reference),
        *_normalisation(split, reference),
        *_preparation(proto, data.test),
        *_classes(split, classes),
        *_unsettled(stable),
    )
    return Audit(len(split), reference.name, faults, stable)


def _reference(data: Splits) -> Split:
    """What the model was trained on, or where nothing was trained, what it is tested on."""
    try:
        return data.train
    except DataError as error:
        if error.id != "empty-split":
            raise
        return data.test


def _keys(split: Split) -> list[bytes]:
    return [
        hashlib.sha256(sample.tobytes()).digest()
        for batch in split.batches(_BATCH)
        for sample in batch
    ]


def _repeated(split: Split, test: Split) -> Iterator[Fault]:
    keys = _keys(split)
    first = {key: index for index, key in reversed(list(enumerate(keys)))}
    again = [index for index, key in enumerate(keys) if first[key] != index]
    if again:
        yield Fault(
            "duplicates",
            f"{len(again)} of {len(keys)} samples equal an earlier one: {_list(again)}",
            "remove them: they weigh double and add nothing",
        )
    tested = set(_keys(test))
    both = [index for index, key in enumerate(keys) if key in tested]
    if both:
        yield Fault(
            "overlap",
            f"{len(both)} of {len(keys)} samples are in the test set: {_list(both)}",
            "take others: the accuracy measured would flatter",
        )


def _flat(split: Split, reference: Split) -> Iterator[Fault]:
    constant = [
        index
        for index, sample in enumerate(sample for b in split.batches(_BATCH) for sample in b)
        if sample.min() == sample.max()
    ]
    if constant:
        yield Fault(
            "constant",
            f"{len(constant)} of {len(split)} samples hold one value each: at {_list(constant)}",
            "remove them, and look at what captured them",
        )
    for end in ("least", "greatest"):
        seen, usual = _at_extreme(split, end), _at_extreme(reference, end)
        if seen > usual + _SATURATED:
            yield Fault(
                "saturated",
                f"{seen:.0%} of the values are the {end} there is; {reference.name}: {usual:.0%}",
                "capture again with another exposure or gain",
            )


def _at_extreme(split: Split, end: str) -> float:
    """The fraction of values that equal the split's least or greatest, over all samples."""
    extreme, here, count = np.inf, 0, 0
    for batch in split.batches(_BATCH):
        values: Array = batch if end == "least" else -batch
        low = float(values.min())
        if low < extreme:
            extreme, here = low, 0
        here += int(np.count_nonzero(values == extreme))
        count += values.size
    return here / count


def _normalisation(split: Split, reference: Split) -> Iterator[Fault]:
    seen, usual = moments(split), moments(reference)
    wrong = mistake(seen, usual, split.preprocess)
    if wrong is not None:
        yield Fault(
            "normalisation",
            f"{wrong} (means {_list(seen.mean)}; {reference.name} {_list(usual.mean)}; deviations "
            f"{_list(seen.std)}; {reference.name} {_list(usual.std)})",
            "prepare calibration samples as the model's training samples were",
        )


def _preparation(proto: bytes, test: Split) -> Iterator[Fault]:
    wanted = better_preparation(proto, test)
    if wanted is not None:
        yield Fault(
            "preparation",
            f"the model is right on {wanted.before.value:.0%} of the {test.name} samples as they"
            f" are prepared, and on {wanted.after.value:.0%} with {wanted.name}",
            "set data.preprocess to what the model was trained with",
        )


def _classes(split: Split, classes: int) -> Iterator[Fault]:
    if split.labels is None:
        return
    missing = np.setdiff1d(np.arange(classes), split.labels)
    if len(missing):
        yield Fault(
            "classes-missing",
            f"{len(missing)} of {classes} classes have no sample: {_list(missing)}",
            "raise data.split.calibration, or add samples of them",
        )


def _unsettled(stable: Stability) -> Iterator[Fault]:
    """What makes the samples too few; none where `found.enough` says that they are enough."""
    unstable = [name for name, each in stable.spread.items() if each > WORST]
    if stable.enough is None:
        yield Fault(
            "too-few-samples",
            f"from {stable.samples} samples nothing can be told of how far the scales are known",
            f"take {LEAST} or more",
        )
    elif stable.typical > TYPICAL:
        yield Fault(
            "too-few-samples",
            f"with {stable.samples} samples half of the scales are not known within "
            f"{stable.typical:.1%}",
            f"take {stable.enough} or more",
        )
    if unstable:
        name, spread = stable.worst
        yield Fault(
            "unstable-scales",
            f"{len(unstable)} of {len(stable.spread)} scales are not known within {WORST:.0%}; "
            f"worst {name}: ±{spread:.1%}",
            "add samples, or take an observer that clips (percentile, mse)",
        )


def _list(values: Array | list[int]) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:_LISTED])
    return shown + (", …" if len(values) > _LISTED else "")
