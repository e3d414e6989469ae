from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtc.compiler.core.evidence import Estimated, Pending
from rtc.compiler.core.precision import Precision
from rtc.compiler.core.target import BuiltLayer, DeviceProfile, Peaks
from rtc.targets.roofline import LAUNCH_US, estimate, layer_times

GPU = DeviceProfile(
    name="gpu",
    vendor="nvidia",
    kind="gpu",
    backends=(),
    peaks=Peaks(bandwidth_gbs=100, tflops={"fp32": 10, "half": 20, "int8": 40}),
)


def _layer(
    per_sample: int | None,
    fixed: int | None = 0,
    flops: int | None = 0,
    precision: Precision | None = None,
) -> BuiltLayer:
    return BuiltLayer(
        "layer",
        "kernel",
        (),
        precision,
        bytes_per_sample=per_sample,
        bytes_fixed=fixed,
        flops_per_sample=flops,
    )


def _ms(*layers: BuiltLayer, batch: int = 1) -> float:
    found = estimate(layers, GPU, batch)
    assert isinstance(found, Estimated)
    assert found.unit == "ms"
    return found.value


def test_by_hand() -> None:
    moving = _layer(1_000_000, 2_000_000)  # 4 samples: 6 MB at 100 GB/s: 60 µs
    computing = _layer(0, 8, 250_000_000, Precision.HALF)  # 1 GFLOP at 20 TFLOPS: 50 µs
    assert _ms(moving, computing, batch=4) == pytest.approx((60 + 50 + 2 * LAUNCH_US) / 1000)


@pytest.mark.parametrize(
    ("precision", "microseconds"),
    [(Precision.FP32, 100), (Precision.HALF, 50), (Precision.INT8, 25)],
)
def test_each_precision_has_its_peak(precision: Precision, microseconds: int) -> None:
    layer = _layer(0, 0, 1_000_000_000, precision)
    assert _ms(layer) == pytest.approx((microseconds + LAUNCH_US) / 1000)


def test_events_between_streams_cost_nothing() -> None:
    work = _layer(1_000_000)
    assert _ms(work, _layer(0), _layer(0)) == _ms(work)


def test_it_names_its_inputs_and_what_it_does_not_know() -> None:
    found = estimate([_layer(1_000), _layer(1_000), _layer(None)], GPU, 8)
    assert isinstance(found, Estimated)
    for part in ("gpu", "batch 8", "100 GB/s", "2 of 3 kernels"):
        assert part in found.model


def test_unknown_layers_count_with_their_launch() -> None:
    known = [_layer(1_000_000)] * 3
    assert _ms(*known, _layer(None)) == pytest.approx(_ms(*known) + LAUNCH_US / 1000)


@pytest.mark.parametrize(
    ("layers", "profile"),
    [
        ([], GPU),
        ([_layer(1_000)], replace(GPU, peaks=None)),
        ([_layer(1_000), _layer(None), _layer(1, 1, None)], GPU),  # two of three unknown
        ([_layer(1, 1, 1, Precision.INT8)], replace(GPU, peaks=Peaks(100, {"fp32": 10}))),
    ],
)
def test_what_cannot_be_estimated_is_pending(
    layers: list[BuiltLayer], profile: DeviceProfile
) -> None:
    assert estimate(layers, profile, 1) == Pending("ms", waits_for="gpu")


def test_each_layer_has_its_time_and_the_unknown_have_none() -> None:
    moving = _layer(1_000_000, 2_000_000)
    found = layer_times([moving, _layer(0), _layer(None), _layer(1, 1, 1, Precision.INT8)], GPU, 4)
    assert found[0] == pytest.approx(60 + LAUNCH_US)
    assert found[1:3] == (0.0, None)
    assert found[3] is not None
    assert layer_times([moving, _layer(0)], replace(GPU, peaks=None), 4) == (None, 0.0)


def test_a_precision_without_a_peak_has_no_time() -> None:
    float_only = replace(GPU, peaks=Peaks(100, {"fp32": 10}))
    assert layer_times([_layer(1, 1, 1, Precision.INT8)], float_only, 1) == (None,)


sizes = st.integers(0, 10**12)
layers = st.lists(
    st.builds(_layer, sizes, sizes, sizes, st.sampled_from([None, *Precision])), min_size=1
)


@given(layers, st.integers(1, 512), st.integers(1, 512))
def test_it_is_finite_and_grows_with_the_batch(
    some: list[BuiltLayer], small: int, more: int
) -> None:
    found = estimate(some, GPU, small)
    if isinstance(found, Estimated):
        assert math.isfinite(found.value)
        assert found.value <= _ms(*some, batch=small + more)


@given(layers, sizes)
def test_it_grows_with_the_bytes(some: list[BuiltLayer], extra: int) -> None:
    before = estimate(some, GPU, 8)
    if isinstance(before, Estimated):
        grown = replace(some[0], bytes_fixed=(some[0].bytes_fixed or 0) + extra)
        assert before.value <= _ms(grown, *some[1:], batch=8)
