"""What a change does to a model's outputs: the signal-to-noise ratio against the float model."""

from __future__ import annotations

import math

import numpy as np

from rtc.calibration.oracle import Oracle
from rtc.compiler.core.data import Split

_BATCH = 32
_LIMIT_DB = 120.0  # float32 carries no more


def output_snr_db(reference: bytes, changed: bytes, split: Split) -> float:
    """10 · log10(Σ y² / Σ (y' - y)²) of the first output over a split, within ±120 decibels."""
    signal = noise = 0.0
    with Oracle(reference) as before, Oracle(changed) as after:
        for _, inputs in before.batches(split, _BATCH):
            wanted = before.run(inputs)[before.outputs[0]].astype(np.float64)
            got = after.run(inputs)[after.outputs[0]].astype(np.float64)
            signal += float(np.square(wanted).sum())
            noise += float(np.square(got - wanted).sum())
    return decibels(signal, noise)


def decibels(signal: float, noise: float) -> float:
    """A ratio of powers in decibels, within ±120."""
    if noise == 0.0:
        return _LIMIT_DB
    if signal == 0.0:
        return -_LIMIT_DB
    return max(-_LIMIT_DB, min(_LIMIT_DB, 10 * math.log10(signal / noise)))
