"""Whether a model that was written anew gives the same answers, on real samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rtc.calibration.oracle import Oracle
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.data import filled
from rtc.compiler.core.unit import Unit
from rtc.compiler.frontend.independence import apart

_FEW = 8  # samples, or a batch of them


def give_the_same(
    one: Unit, other: Unit, samples: Array, sizes: Sequence[int], within: float
) -> bool:
    """Whether two models' answers in the reference are `within` that share of their spread.

    `samples` (n, …) go through both in batches of the first of `sizes` that the first model runs:
    what it states of its batch may be a name alone.
    """
    with Oracle(one.onnx.proto) as first, Oracle(other.onnx.proto) as second:
        for size in sizes:
            batches = filled(samples[: max(_FEW, size)], size)
            wanted = _rows(first, batches, size)
            if wanted is not None:
                seen = _rows(second, batches, size)
                return (
                    seen is not None
                    and wanted.shape == seen.shape
                    and apart(wanted, seen) <= within
                )
    return False


def _rows(oracle: Oracle, samples: Array, size: int) -> Array | None:
    """The answers (n, classes), or None where the model does not run in batches of that size."""
    starts = range(0, len(samples), size)
    try:
        rows = [oracle.run(samples[start : start + size])[oracle.outputs[0]] for start in starts]
    except Exception:  # noqa: BLE001 - the runtime's errors have no common public class
        return None
    return np.concatenate(rows)
