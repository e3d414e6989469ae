"""Older models in a newer opset: Q/DQ per channel needs 13, what differentiates a graph 16."""

from __future__ import annotations

import numpy as np

from rtc.calibration.oracle import Oracle
from rtc.compiler.core.data import Array
from rtc.compiler.core.unit import OnnxModel, Unit
from rtc.compiler.source import signature_of, to_bytes

OPSET = 17
_IR = 8  # the first that may hold opset 17


def lifted(unit: Unit, samples: Array) -> Unit:
    """The model in opset 17, if it is older, ONNX's converter can, and it then gives the same.

    Nodes that have names keep them. `samples`: a batch that the model takes.
    """
    import onnx

    model = onnx.load_from_string(unit.onnx.proto)
    own = next((each.version for each in model.opset_import if not each.domain), OPSET)
    if own >= OPSET:
        return unit
    try:
        newer = onnx.version_converter.convert_version(model, OPSET)
        newer.ir_version = max(newer.ir_version, _IR)
        onnx.checker.check_model(newer, full_check=True)
    except Exception:  # noqa: BLE001 - the converter's errors have no common public class
        return unit
    changed = Unit(OnnxModel(to_bytes(newer)), unit.signature)
    if signature_of(newer) != unit.signature or not _give_the_same(unit, changed, samples):
        return unit
    return changed


def _give_the_same(one: Unit, other: Unit, samples: Array) -> bool:
    try:
        with Oracle(one.onnx.proto) as first, Oracle(other.onnx.proto) as second:
            pairs = zip(first.run(samples).values(), second.run(samples).values(), strict=True)
            return all(np.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True) for a, b in pairs)
    except Exception:  # noqa: BLE001 - the runtime's errors have no common public class
        return False
