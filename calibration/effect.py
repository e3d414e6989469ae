"""What a change does to a model's outputs: the signal-to-noise ratio against the float model."""

from __future__ import annotations

import numpy as np

from rtc.calibration.decibels import decibels
from rtc.calibration.oracle import Oracle
from rtc.compiler.core.data import Split
from rtc.compiler.core.outputs import as_logits, output_kind

_BATCH = 32


def output_snr_db(reference: bytes, changed: bytes, split: Split) -> float:
    """10 · log10(Σ y² / Σ (y' - y)²) over a split, within ±120 decibels; y are the logits.

    Of a model that gives probabilities, y is their logarithm.
    """
    with Oracle(reference) as before, Oracle(changed) as after:
        pairs = [
            (before.run(inputs)[before.outputs[0]], after.run(inputs)[after.outputs[0]])
            for _, inputs in before.batches(split, _BATCH)
        ]
    outputs = [np.concatenate(each) for each in zip(*pairs, strict=True)]
    kind = output_kind(outputs[0])
    wanted, got = (as_logits(output, kind) for output in outputs)
    return decibels(float(np.square(wanted).sum()), float(np.square(got - wanted).sum()))
