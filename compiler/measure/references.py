"""What models give in the reference for samples that engines are held to."""

from __future__ import annotations

import math
from collections import OrderedDict

import numpy as np

from rtc.compiler.core.arrays import Array
from rtc.compiler.core.errors import ModelError
from rtc.compiler.core.hashing import digest

_KEPT = 8

_runs: OrderedDict[str, tuple[int, dict[str, Array]]] = OrderedDict()
"""By digest, how many samples were run, and every output of them."""


def reference(proto: bytes, inputs: Array) -> tuple[Array, dict[str, Array]]:
    """Samples and outputs; so many samples more as the model's own batch wants.

    The last few are kept: one graph is held to with several numbers of threads, one float model
    with every graph.

    Raises:
        ModelError: the reference does not take the model.
    """
    key = digest([digest(proto), digest(inputs.tobytes()), inputs.dtype.str, list(inputs.shape)])
    if key not in _runs:
        _runs[key] = _run(proto, inputs)
    _runs.move_to_end(key)
    while len(_runs) > _KEPT:
        _runs.popitem(last=False)
    count, outputs = _runs[key]
    return np.take(inputs, range(count), axis=0, mode="wrap"), dict(outputs)


def outputs_of(proto: bytes, inputs: Array) -> list[Array] | None:
    """Every output in order; None where the reference does not take the model."""
    try:
        return list(reference(proto, inputs)[1].values())
    except ModelError:
        return None


def _run(proto: bytes, inputs: Array) -> tuple[int, dict[str, Array]]:
    from rtc.calibration.oracle import Oracle

    with Oracle(proto) as oracle:
        size = oracle.batch or len(inputs)
        count = math.ceil(len(inputs) / size) * size
        parts = [
            oracle.run(np.take(inputs, range(i, i + size), axis=0, mode="wrap"))
            for i in range(0, count, size)
        ]
    return count, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
