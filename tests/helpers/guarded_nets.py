"""What half types leave of a net."""

from __future__ import annotations

import numpy as np

from rtc.calibration.decibels import decibels
from rtc.calibration.oracle import Oracle
from rtc.compiler.core.precision import Precision, PrecisionPlan
from rtc.compiler.core.unit import Unit


def floats_of(plan: PrecisionPlan) -> set[str]:
    return {n for n, each in plan.layers.items() if each.precision is Precision.FP32}


def snr_db(unit: Unit, half: Unit, inputs: np.ndarray) -> float:
    with Oracle(unit.onnx.proto) as before, Oracle(half.onnx.proto) as after:
        (wanted,), (got,) = before.run(inputs).values(), after.run(inputs).values()
    assert np.isfinite(got).all()
    return decibels(float(np.square(wanted).sum()), float(np.square(got - wanted).sum()))
