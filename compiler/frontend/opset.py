"""Older models in a newer opset: Q/DQ per channel needs 13, what differentiates a graph 16."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rtc.calibration.oracle import Oracle
from rtc.calibration.quantise import QDQ_OPSET
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.data import filled
from rtc.compiler.core.errors import first_line
from rtc.compiler.core.protos import bodies
from rtc.compiler.core.unit import OnnxModel, Unit
from rtc.compiler.frontend.independence import apart
from rtc.compiler.frontend.source import signature_of, to_bytes
from rtc.passes.graph.constant_nodes import to_initialisers

if TYPE_CHECKING:
    import onnx

OPSET = 17
_IR = 8  # the first that may hold opset 17
_FEW = 8  # samples, or a batch of them
_SAME = 1e-3  # of the answers' spread: what kernels of another opset may round


def lifted(unit: Unit, samples: Array, sizes: Sequence[int]) -> tuple[Unit, str]:
    """The model in opset 17, if it is older, ONNX's converter can, and it then gives the same.

    Nodes that have names keep them. `samples` (n, …) go through both in batches of the first of
    `sizes` that the model runs: what it states of its batch may be a name alone. The second part
    says why a model stays as it is though that costs it INT8; else it is "".
    """
    import onnx

    model = onnx.load_from_string(unit.onnx.proto)
    own = next((opset.version for opset in model.opset_import if not opset.domain), OPSET)
    if own >= OPSET:
        return unit, ""
    try:
        changed, why = _converted(model, unit, samples, sizes), "the newer one gives other answers"
    except Exception as cause:  # noqa: BLE001 - the converter's errors have no common public class
        changed, why = None, first_line(cause)
    if changed is not None:
        return changed, ""
    note = f"The model stays in opset {own}: ONNX cannot convert it soundly ({why})."
    return unit, f"{note} INT8 needs opset {QDQ_OPSET}." if own < QDQ_OPSET else ""


def _converted(
    model: onnx.ModelProto, unit: Unit, samples: Array, sizes: Sequence[int]
) -> Unit | None:
    """The model, which is changed, in the newer opset; None if it then computes something else.

    What it states of its tensors goes first: the mask of a Dropout was float once.
    """
    import onnx

    for body in bodies(model):
        del body.value_info[:]
    to_initialisers(model.graph)  # the converter takes no sparse constant
    newer = onnx.version_converter.convert_version(model, OPSET)
    newer.ir_version = max(newer.ir_version, _IR)
    onnx.checker.check_model(newer, full_check=True)
    changed = Unit(OnnxModel(to_bytes(newer)), unit.signature)
    sound = signature_of(newer) == unit.signature and _give_the_same(unit, changed, samples, sizes)
    return changed if sound else None


def _give_the_same(one: Unit, other: Unit, samples: Array, sizes: Sequence[int]) -> bool:
    with Oracle(one.onnx.proto) as first, Oracle(other.onnx.proto) as second:
        for size in sizes:
            batches = filled(samples[: max(_FEW, size)], size)
            wanted = _rows(first, batches, size)
            if wanted is not None:
                seen = _rows(second, batches, size)
                return seen is not None and _alike(wanted, seen)
    return False


def _rows(oracle: Oracle, samples: Array, size: int) -> Array | None:
    """The answers (n, classes), or None where the model does not run in batches of that size."""
    starts = range(0, len(samples), size)
    try:
        rows = [oracle.run(samples[start : start + size])[oracle.outputs[0]] for start in starts]
    except Exception:  # noqa: BLE001 - the runtime's errors have no common public class
        return None
    return np.concatenate(rows)


def _alike(wanted: Array, seen: Array) -> bool:
    return wanted.shape == seen.shape and apart(wanted, seen) <= _SAME
