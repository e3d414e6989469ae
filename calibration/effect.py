"""What a change does to a model's outputs: the signal-to-noise ratio against the float model."""

from __future__ import annotations

import numpy as np

from rtc.calibration.decibels import decibels
from rtc.calibration.oracle import Oracle
from rtc.compiler.core.data import Split

_BATCH = 32


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
