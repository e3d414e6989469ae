"""The digits net in forms that quantise badly, and what INT8 makes of a net."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from check_pass import unit_of
from digits_net import digits, digits_net
from nets import PROFILE, TENSORRT
from onnx import numpy_helper

from rtc.calibration.collect import collect
from rtc.calibration.effect import output_snr_db
from rtc.compiler.core.passes import PassContext, TargetContext
from rtc.compiler.core.precision import Variant
from rtc.compiler.core.target import QuantScheme
from rtc.compiler.core.unit import Unit
from rtc.passes.quantise.assign_precision import AssignPrecision
from rtc.passes.quantise.insert_qdq import InsertQdq

DATA = digits()


def digits_unit() -> Unit:
    return unit_of(digits_net(DATA.train))


def unbalanced(unit: Unit, channel: int = 2, factor: float = 100.0) -> Unit:
    """The same function of the digits net, with one channel between its layers `factor` larger."""
    model = onnx.load_model_from_string(unit.onnx.proto)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    filters = numpy_helper.to_array(tensors["w"]).copy()
    readout = numpy_helper.to_array(tensors["v"]).copy()
    area = readout.shape[1] // len(filters)
    filters[channel] *= factor
    readout[:, channel * area : (channel + 1) * area] /= factor
    tensors["w"].CopyFrom(numpy_helper.from_array(filters, "w"))
    tensors["v"].CopyFrom(numpy_helper.from_array(readout, "v"))
    return unit_of(model.SerializeToString())


def half_steps(unit: Unit) -> Unit:
    """The digits net with last-layer weights that all lie 0.45 of a step above an INT8 value.

    Rounding then takes as much from each of them, and the features that they weigh are positive.
    """
    model = onnx.load_model_from_string(unit.onnx.proto)
    tensor = next(each for each in model.graph.initializer if each.name == "v")
    weights = numpy_helper.to_array(tensor)
    step = np.abs(weights).max(axis=1, keepdims=True) / 127
    moved = np.clip(np.rint(weights / step) + 0.45, -126, 126.45)
    moved[np.arange(len(weights)), np.abs(weights).argmax(axis=1)] = 127
    tensor.CopyFrom(numpy_helper.from_array((moved * step).astype(np.float32), "v"))
    return unit_of(model.SerializeToString())


def planned_on_digits(
    unit: Unit, scheme: QuantScheme = TENSORRT, variant: Variant = Variant.INT8
) -> PassContext:
    """A context of real digits with the ranges and the plan that a net has there."""
    ranges = collect(unit.onnx.proto, AssignPrecision().needs(unit), DATA.calibration)
    ctx = PassContext(DATA, target=TargetContext(PROFILE, "some", scheme, 8), statistics=ranges)
    return replace(ctx, plan=AssignPrecision(variant=variant).apply(unit, ctx).plan)


def quantised(unit: Unit, ctx: PassContext) -> Unit:
    return InsertQdq().apply(unit, ctx).unit


def int8_snr(reference: Unit, unit: Unit, ctx: PassContext) -> float:
    """Decibels at the outputs of `unit` in INT8 against the float `reference`, on test digits."""
    after = quantised(unit, ctx).onnx.proto
    return output_snr_db(reference.onnx.proto, after, DATA.test)
