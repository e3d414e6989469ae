"""Figures of single samples, gathered batch by batch, and the row that they come to."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from rtc.calibration.decibels import LIMIT_DB, decibels
from rtc.calibration.sensitivity.alternative import Alternative
from rtc.calibration.sensitivity.result import LayerSensitivity
from rtc.compiler.core.arrays import Array, BoolArray, Float64Array, Int64Array
from rtc.compiler.core.data import Split
from rtc.compiler.core.errors import ModelError
from rtc.compiler.core.intervals import Interval, Z, mean_interval, paired_difference, wilson
from rtc.compiler.core.outputs import OutputKind, as_logits, log_probabilities

_LIMIT_NATS = 100.0  # of a sample whose output is not finite: its class has no probability left


class Reference:
    """The float model's output (n, classes) on one batch, and the labels if there are any.

    Noise and margins are of the logits, those behind the probabilities where the model gives these:
    of what a softmax saturates at, nothing could be told.

    Raises:
        ModelError: the output is not one row of at least two classes for each sample.
    """

    def __init__(self, outputs: Array, labels: Int64Array | None, kind: OutputKind) -> None:
        if outputs.ndim != 2 or outputs.shape[1] < 2:
            raise ModelError(
                "sensitivity is that of a classifier",
                seen=f"output of shape {outputs.shape}",
                expected="(samples, classes)",
                id="not-a-classifier",
            )
        self.kind = kind
        self.logits = as_logits(outputs, kind)
        self.log_p = log_probabilities(outputs, kind)
        self.power: Float64Array = (self.logits**2).sum(axis=1)
        second, first = np.argsort(self.logits, axis=1, kind="stable")[:, -2:].T
        self.top1: Int64Array = outputs.argmax(axis=1)
        self.runner_up: Int64Array = np.where(first == self.top1, second, first)
        rows = np.arange(len(outputs))
        self.margin: Float64Array = self.logits[rows, self.top1] - self.logits[rows, self.runner_up]
        self.labels = labels


@dataclass
class Tally:
    """One alternative's figures: powers at the layer, and figures of each sample at the output."""

    layer_signal: float = 0.0
    layer_noise: float = 0.0
    noise: list[Float64Array] = field(default_factory=list)
    kl: list[Float64Array] = field(default_factory=list)
    same: list[BoolArray] = field(default_factory=list)
    right: list[BoolArray] = field(default_factory=list)

    def at_layer(self, signal: Array, noise: Array) -> None:
        """Add a batch's powers of the layer's output and of its error (n,)."""
        self.layer_signal += float(signal.sum(dtype=np.float64))
        total = float(noise.sum(dtype=np.float64))
        self.layer_noise += total if math.isfinite(total) else math.inf

    def measured(self, reference: Reference, outputs: Array) -> None:
        """Add a batch's output as it was computed."""
        with np.errstate(invalid="ignore", over="ignore"):
            changed = as_logits(outputs, reference.kind)
            noise = ((changed - reference.logits) ** 2).sum(axis=1)
            ratio = reference.log_p - log_probabilities(outputs, reference.kind)
            kl = (np.exp(reference.log_p) * ratio).sum(axis=1)
        self._add(reference, noise, kl, outputs.argmax(axis=1))

    def predicted(self, reference: Reference, noise: Array, kl: Array, margin: Array) -> None:
        """Add a batch's predictions: noise power, divergence, and change of the top-1 margin (n,).

        A sample whose margin is used up goes to its runner-up.
        """
        flips = reference.margin + np.nan_to_num(margin, nan=-np.inf) < 0
        top1 = np.where(flips, reference.runner_up, reference.top1)
        self._add(reference, noise.astype(np.float64), kl.astype(np.float64), top1)

    def _add(
        self, reference: Reference, noise: Float64Array, kl: Float64Array, top1: Int64Array
    ) -> None:
        finite = np.isfinite(noise) & np.isfinite(kl)
        self.noise.append(np.where(finite, noise, np.inf))
        self.kl.append(np.where(finite, np.clip(kl, 0.0, _LIMIT_NATS), _LIMIT_NATS))
        self.same.append(finite & (top1 == reference.top1))
        if reference.labels is not None:
            self.right.append(finite & (top1 == reference.labels))


class Results:
    """The float model's figures over all samples, and the rows that alternatives come to.

    `kind` is what the model's outputs are.
    """

    def __init__(self, kind: OutputKind) -> None:
        self.kind = kind
        self.samples = 0
        self._signal: list[Float64Array] = []
        self._right: list[BoolArray] = []

    def reference(self, outputs: Array, split: Split, start: int) -> Reference:
        """The float model's output on the batch of `split` that begins at `start`."""
        end = start + len(outputs)
        labels = None if split.labels is None else split.labels[start:end]
        reference = Reference(outputs, labels, self.kind)
        self.samples = end
        self._signal.append(reference.power)
        if labels is not None:
            self._right.append(reference.top1 == labels)
        return reference

    def row(self, alternative: Alternative, tally: Tally) -> LayerSensitivity:
        """What was counted for an alternative, as estimates with intervals."""
        same, drop = np.concatenate(tally.same), None
        if self._right:
            drop = paired_difference(np.concatenate(self._right), np.concatenate(tally.right))
        signal, noise = np.concatenate(self._signal), np.concatenate(tally.noise)
        kl = mean_interval(np.concatenate(tally.kl))
        return LayerSensitivity(
            layer=alternative.layer,
            precision=alternative.precision,
            layer_snr_db=decibels(tally.layer_signal, tally.layer_noise),
            output_snr_db=snr_interval(signal, noise),
            kl=replace(kl, low=max(0.0, kl.low)),  # no divergence is negative
            agreement=wilson(int(np.count_nonzero(same)), len(same)),
            top1_drop=drop,
        )


def snr_interval(signal: Float64Array, noise: Float64Array) -> Interval:
    """A ratio of sums in decibels, with the interval of a ratio estimator.

    Source: W. G. Cochran, Sampling Techniques (1977), 6.5: to first order the log of the ratio has
    the variance of the mean of s_i / mean(s) - e_i / mean(e).
    """
    value = decibels(float(signal.sum()), float(noise.sum()))
    if abs(value) == LIMIT_DB:
        return Interval(value, value, value)
    if len(signal) < 2:
        return Interval(value, -LIMIT_DB, LIMIT_DB)
    influence = signal / signal.mean() - noise / noise.mean()
    error = Z * float(influence.std(ddof=1)) / math.sqrt(len(signal)) * 10 / math.log(10)
    return Interval(value, max(-LIMIT_DB, value - error), min(LIMIT_DB, value + error))
