"""The mean of each channel of some tensors over samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rtc.calibration.oracle import Oracle
from rtc.calibration.prefix import prefix
from rtc.compiler.core.arrays import Float64Array
from rtc.compiler.core.data import Split

_BATCH = 16  # all tensors of one batch are in memory at once


def channel_means(proto: bytes, tensors: Sequence[str], split: Split) -> dict[str, Float64Array]:
    """Mean by tensor and channel (axis 1), over samples and positions; streamed."""
    sums: dict[str, Float64Array] = {}
    samples = 0
    with Oracle(prefix(proto, tensors), tensors) as oracle:
        for _, inputs in oracle.batches(split, _BATCH):
            samples += len(inputs)
            for name, values in oracle.run(inputs).items():
                axes = (0, *range(2, values.ndim))
                mean = values.mean(axis=axes, dtype=np.float64) * len(inputs)
                sums[name] = sums[name] + mean if name in sums else mean
    return {name: total / samples for name, total in sums.items()}
