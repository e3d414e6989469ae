"""The float reference of every accuracy: a model in unoptimised ONNX Runtime on the CPU."""

from __future__ import annotations

import numpy as np

from rtc.calibration.oracle import Oracle
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.data import Split, filled

REFERENCE = "unoptimised ONNX Runtime"


def reference_logits(proto: bytes, split: Split, batch: int = 64) -> Array:
    """The first output (N, classes) of a serialised ONNX model for every sample of a split.

    Where the model fixes its batch, the last one is filled up with its last sample.
    """
    with Oracle(proto) as oracle:
        first, whole = oracle.outputs[0], oracle.batch or 1
        parts = split.batches(oracle.batch or batch)
        return np.concatenate(
            [oracle.run(filled(part, whole))[first][: len(part)] for part in parts]
        )
