"""Results as files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from nets import TENSORRT, residual
from one_layer_nets import sampled, with_labels

from rtc.calibration.sensitivity import Sensitivity, fast
from rtc.compiler.core.errors import IntegrityError
from rtc.compiler.core.precision import Precision
from rtc.passes.quantise.one_layer import alternatives


@pytest.fixture(scope="module", params=[True, False], ids=["labels", "no labels"])
def result(request):
    unit = residual()
    ctx = sampled(unit, TENSORRT)
    split = ctx.calibration()
    return fast(*alternatives(unit, ctx), with_labels(split, 10) if request.param else split)


def test_there_and_back(result):
    assert Sensitivity.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_rows_are_found_by_layer_and_precision(result):
    row = result.of("conv2", Precision.INT8)
    assert (row.layer, row.precision) == ("conv2", Precision.INT8)
    assert result.of("conv2", Precision.FP32) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda fields: {**fields, "schema": 2},
        lambda fields: {**fields, "rows": [{}]},
        lambda fields: {**fields, "cost": None},
        lambda fields: {name: fields[name] for name in fields if name != "samples"},
    ],
)
def test_anything_else_is_refused(result, damage):
    with pytest.raises(IntegrityError):
        Sensitivity.from_dict(damage(result.to_dict()))


def test_every_figure_is_finite_and_inside_its_interval(result):
    for row in result.rows:
        for each in (row.output_snr_db, row.kl, row.agreement):
            assert np.isfinite([each.value, each.low, each.high]).all()
            assert each.low <= each.value + 1e-12
            assert each.value <= each.high + 1e-12
