"""A latency estimate from what a builder planned: no device needed, and no measurement.

    t = Σ over layers  max(bytes / bandwidth, flops / peak(precision)) + launch

Every layer reaches the device's peak bandwidth or its peak arithmetic, whichever takes longer, and
starts after the one before it. Real kernels reach 50 to 90 % of that, so the estimate is optimistic
for large layers; values that stay in the L2 cache make it pessimistic for small ones. It ranks
engines of one device; it does not replace `rtc bench` on the device.
"""

from __future__ import annotations

from collections.abc import Sequence

from rtc.compiler.core.evidence import Estimated, Pending
from rtc.compiler.core.precision import Precision
from rtc.compiler.core.target import BuiltLayer, DeviceProfile, Peaks

LAUNCH_US = 2.0
"""Microseconds for each kernel besides its work. An assumption: of the order of what starting an
empty kernel from a stream costs on recent GPUs; CUDA graphs take less, a slow host more."""

ENOUGH = 0.5
"""The least fraction of layers with known traffic for which a sum says anything."""


def estimate(
    layers: Sequence[BuiltLayer], profile: DeviceProfile, batch: int
) -> Estimated | Pending:
    """Latency of one forward pass at `batch`, in milliseconds per batch.

    `Pending` where the device's peaks are not known, or the bytes and operations of fewer than
    half of the layers are. Layers that are not known count with their launch alone, and the
    estimate says how many are.
    """
    kernels = [layer for layer in layers if not _is_bookkeeping(layer)]
    known = [layer for layer in kernels if _is_known(layer)]
    peaks = profile.peaks
    if peaks is None or not kernels or len(known) < ENOUGH * len(kernels):
        return Pending("ms", waits_for=profile.name)
    times = [time for time in layer_times(known, profile, batch) if time is not None]
    if len(times) < len(known):  # a precision without a peak
        return Pending("ms", waits_for=profile.name)
    microseconds = sum(times) + (len(kernels) - len(known)) * LAUNCH_US
    model = (
        f"roofline of {profile.name} at batch {batch}: {peaks.bandwidth_gbs:g} GB/s and dense peaks"
        f" reached in full, {LAUNCH_US:g} µs per kernel (assumed), bytes and operations of"
        f" {len(known)} of {len(kernels)} kernels known"
    )
    return Estimated(microseconds / 1e3, "ms", model)


def layer_times(
    layers: Sequence[BuiltLayer], profile: DeviceProfile, batch: int
) -> tuple[float | None, ...]:
    """Microseconds of each layer at `batch`, its launch included; 0 for one that starts no kernel.

    None where the layer's bytes or operations are not known, or the peak that it would reach.
    """
    return tuple(_microseconds(layer, profile.peaks, batch) for layer in layers)


def _microseconds(layer: BuiltLayer, peaks: Peaks | None, batch: int) -> float | None:
    """One that computes without a precision counts as FP32."""
    if _is_bookkeeping(layer):
        return 0.0
    if peaks is None or not _is_known(layer):
        return None
    seconds = _bytes(layer, batch) / (peaks.bandwidth_gbs * 1e9)
    if flops := batch * (layer.flops_per_sample or 0):
        peak = peaks.tflops.get(layer.precision or Precision.FP32)
        if peak is None:
            return None
        seconds = max(seconds, flops / (peak * 1e12))
    return seconds * 1e6 + LAUNCH_US


def _is_known(layer: BuiltLayer) -> bool:
    return None not in (layer.bytes_per_sample, layer.bytes_fixed, layer.flops_per_sample)


def _is_bookkeeping(layer: BuiltLayer) -> bool:
    """A step of the plan that starts no kernel: shape arithmetic, or events between streams."""
    return _is_known(layer) and not (_bytes(layer, 1) or layer.flops_per_sample)


def _bytes(layer: BuiltLayer, batch: int) -> int:
    return batch * (layer.bytes_per_sample or 0) + (layer.bytes_fixed or 0)
