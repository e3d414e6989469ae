"""Quality of a classifier from its outputs: top-1, top-5, loss, agreement with the float model.

Every figure is `Measured` and carries its 95 % confidence interval. A model whose outputs are not
finite has no quality: it is refused, never scored.
"""

from __future__ import annotations

import numpy as np

from rtc.compiler.core.arrays import Array, BoolArray, Float64Array, Int64Array
from rtc.compiler.core.errors import DataError, GateError, ModelError
from rtc.compiler.core.evidence import Measured
from rtc.compiler.core.intervals import guessing, mean_interval, paired_difference, wilson
from rtc.compiler.core.outputs import OutputKind, log_probabilities
from rtc.compiler.core.results import AccuracyRow


def accuracy_row(
    subject: str,
    outputs: Array,
    labels: Int64Array,
    float_outputs: Array | None,
    where: str,
    *,
    kind: OutputKind,
) -> AccuracyRow:
    """Score one model.

    Args:
        subject: whose outputs these are.
        outputs: (N, classes).
        labels: class indices (N,).
        float_outputs: the float model's on the same samples; None for the float model itself.
        where: the machine and runtime that gave the outputs.
        kind: what the float model's outputs are.

    Raises:
        GateError: an output is NaN or infinite.
        ModelError: the outputs are not one row of classes for each sample.
        DataError: no samples, or a label that no output stands for.
    """
    scores = _checked(subject, outputs, len(labels))
    _check_labels(subject, labels, scores.shape[1])
    rank = ranks(scores, labels)
    agrees = None if float_outputs is None else agreement(outputs, float_outputs, where, subject)
    loss = mean_interval(losses(scores, labels, kind))
    return AccuracyRow(
        subject=subject,
        top1=_fraction(rank < 1, where),
        top5=_fraction(rank < 5, where) if scores.shape[1] > 5 else None,
        loss=Measured(loss.value, "nats", where, len(labels), loss.low, loss.high),
        agreement=agrees,
        runs_on=where,
        guess=_guess(scores.argmax(axis=1), labels, where),
    )


def better_than_guessing(model: AccuracyRow, least: float = 0.0) -> bool | None:
    """Whether a model's top-1 exceeds guessing's by more than `least`, beyond doubt.

    None where the samples could tell it of no model: too few, or all of one class.
    """
    top1, guess = model.top1, model.guess
    if not isinstance(top1, Measured) or not isinstance(guess, Measured) or guess.high is None:
        return None
    return top1.value > guess.high + least


def agreement(logits: Array, float_logits: Array, where: str, subject: str = "engine") -> Measured:
    """The fraction of samples for which both give the same class.

    Raises:
        GateError, ModelError, DataError: as `accuracy_row`.
    """
    own = _checked(subject, logits, len(float_logits)).argmax(axis=1)
    return _fraction(own == _checked("float model", float_logits, len(own)).argmax(axis=1), where)


def top1_drop(before: Array, after: Array, labels: Int64Array, where: str) -> Measured:
    """Top-1 accuracy before minus after, a fraction, with the interval of paired samples.

    Raises:
        GateError, ModelError, DataError: as `accuracy_row`.
    """

    def right(subject: str, logits: Array) -> BoolArray:
        scores = _checked(subject, logits, len(labels))
        _check_labels(subject, labels, scores.shape[1])
        return ranks(scores, labels) < 1

    drop = paired_difference(right("model before", before), right("model after", after))
    return Measured(drop.value, "fraction", where, len(labels), drop.low, drop.high)


def ranks(logits: Float64Array, labels: Int64Array) -> Int64Array:
    """How many classes come before the right one in each row: 0 where top-1 is right.

    Of equal logits the lower class comes first, as `argmax` has it: a constant output is right for
    one class, not for all.
    """
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    ahead = np.arange(logits.shape[1]) < labels[:, None]
    before: Int64Array = ((logits > own) | ((logits == own) & ahead)).sum(axis=1)
    return before


def losses(
    outputs: Array, labels: Int64Array, kind: OutputKind = OutputKind.LOGITS
) -> Float64Array:
    """Cross entropy of each row in nats: the right class's probability, its logarithm, negated."""
    own = np.take_along_axis(log_probabilities(outputs, kind), labels[:, None], axis=1)
    total: Float64Array = -own[:, 0]
    return total


def _guess(answers: Int64Array, labels: Int64Array, where: str) -> Measured | None:
    """What guessing would come to; None where not even right answers could be told from it."""
    if guessing(labels, labels).high >= 1:
        return None
    guess = guessing(answers, labels)
    return Measured(guess.value, "fraction", where, len(labels), guess.low, guess.high)


def _fraction(flags: BoolArray, where: str) -> Measured:
    share = wilson(int(np.count_nonzero(flags)), len(flags))
    return Measured(share.value, "fraction", where, len(flags), share.low, share.high)


def _checked(subject: str, logits: Array, count: int) -> Float64Array:
    if not count:
        raise DataError("there are no samples to score", where=subject, id="no-samples")
    if logits.ndim != 2 or len(logits) != count:
        raise ModelError(
            "not a classifier's output",
            where=subject,
            seen=f"shape {logits.shape}",
            expected=f"({count}, classes)",
            id="not-a-classifier",
        )
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        raise GateError(
            f"outputs of {np.count_nonzero(~finite)} of {count} samples are not finite",
            where=f"{subject}, sample {int(finite.argmin())}",
            id="not-finite",
        )
    return logits.astype(np.float64)


def _check_labels(subject: str, labels: Int64Array, classes: int) -> None:
    strange = labels[(labels < 0) | (labels >= classes)]
    if len(strange):
        raise DataError(
            "a label that the model has no class for",
            where=subject,
            seen=str(int(strange[0])),
            expected=f"0 to {classes - 1}",
            id="label-out-of-range",
        )
