"""What a classifier's output is, told by its values, and the logits that stand behind it.

Every figure of a distribution (loss, divergence, margins, a class's probability) is taken of
logits. So what a model gives is asked once, of real samples, and turned into logits in one place:
a model that ends in a softmax, in whatever nodes, is not put through another.
"""

from __future__ import annotations

import numpy as np

from rtc.compiler.core.arrays import Array, Float64Array
from rtc.compiler.core.words import Word

LEAST_PROBABILITY = float(np.finfo(np.float32).eps)
"""What a smaller probability counts as, 15.9 nats: a quantised softmax gives zeros, and they have
no logarithm. The float model's counts so as well, or its losses would be larger than an engine's.
"""
_ROUNDING = 1e-3  # of a sum of probabilities in FP16
_MOST_ROUNDING = 0.5
_LOOKED_AT = 256  # rows, for how finely values are resolved


class OutputKind(Word):
    """What a classifier gives for each class.

    LOGITS: any scores; their softmax is the distribution. PROBABILITIES: the distribution, as after
    a Softmax. LOG_PROBABILITIES: its logarithm, as after a LogSoftmax; these are logits as well.
    Independent probabilities, as after a Sigmoid, are no distribution over the classes, so they
    count as scores.
    """

    LOGITS = "logits"
    PROBABILITIES = "probabilities"
    LOG_PROBABILITIES = "log-probabilities"


def output_kind(outputs: Array) -> OutputKind:
    """What a float model's outputs (N, classes) are.

    Probabilities where no value of any row is negative and every row adds up to 1, within rounding:
    that of FP16, or of the steps that all values lie on, as after a Q/DQ pair.
    """
    rows = np.asarray(outputs, np.float64)
    if rows.ndim != 2 or not len(rows) or rows.shape[1] < 2 or not np.isfinite(rows).all():
        return OutputKind.LOGITS
    if rows.min() >= 0 and _are_one(rows.sum(axis=1), _rounding(rows)):
        return OutputKind.PROBABILITIES
    if rows.max() <= _ROUNDING and _are_one(np.exp(rows).sum(axis=1), 10 * _ROUNDING):
        return OutputKind.LOG_PROBABILITIES
    return OutputKind.LOGITS


def as_logits(outputs: Array, kind: OutputKind) -> Float64Array:
    """Logits whose softmax is the distribution that `outputs` (N, classes) of that kind stand for.

    An engine's probabilities need not add up to 1; those below `LEAST_PROBABILITY` count as that.
    """
    values = np.asarray(outputs, np.float64)
    if kind is not OutputKind.PROBABILITIES:
        return values
    logits: Float64Array = np.log(np.maximum(values, LEAST_PROBABILITY))
    return logits


def log_probabilities(outputs: Array, kind: OutputKind) -> Float64Array:
    """The logarithm of each class's probability, by rows (N, classes), in nats."""
    logits = as_logits(outputs, kind)
    shifted = logits - logits.max(axis=1, keepdims=True)
    logarithms: Float64Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logarithms


def _are_one(sums: Float64Array, tolerance: float) -> bool:
    return bool((np.abs(sums - 1) <= tolerance).all())


def _rounding(rows: Float64Array) -> float:
    """How far the sum of a row may be off where each value was rounded to a multiple of a step."""
    values = np.unique(rows[:_LOOKED_AT])
    step = float(np.diff(values).min()) if len(values) > 1 else 0.0
    sum_of_halves = float(rows.shape[1] * step / 2)
    return max(_ROUNDING, min(_MOST_ROUNDING, sum_of_halves))
