"""The float reference of every accuracy: a model in unoptimised ONNX Runtime on the CPU."""

from __future__ import annotations

import numpy as np

from rtc.calibration.oracle import Oracle
from rtc.compiler.core.data import Array, Split

REFERENCE = "unoptimised ONNX Runtime"


def reference_logits(proto: bytes, split: Split, batch: int = 64) -> Array:
    """The first output (N, classes) of a serialised ONNX model for every sample of a split."""
    with Oracle(proto) as oracle:
        first = oracle.outputs[0]
        return np.concatenate([oracle.run(inputs)[first] for inputs in split.batches(batch)])
