"""Ranges that suit a quantised model: what each tensor holds once all before it is quantised.

A float model's ranges do not quite fit its quantised twin, whose values were rounded and clipped on
the way. To observe those values instead makes clipping compound: each segment would clip anew what
is left of the one before. So a range is chosen for what it is to give: with x a value of the float
model and x' the quantised model's at the same place, the range minimises

    Σ (Q(x') - x)²  =  Σ over bins of x'  n · (Q(x') - mean(x))²  +  a constant

which is the asymmetric reconstruction of Nagel et al. ("Up or down? Adaptive rounding for
post-training quantization", ICML 2020, section 3.5) with ranges to choose in place of weights:
inputs from the quantised model, outputs as in the float one. A histogram of x' that also holds
the mean x of each bin is all that is kept, whatever the number of samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from rtc.calibration import clipping
from rtc.calibration.collect import fitting_batch
from rtc.calibration.histogram import chunks
from rtc.calibration.oracle import Oracle, session
from rtc.calibration.prefix import prefix
from rtc.calibration.rounding import emulate_half
from rtc.calibration.sensitivity.alternative import Alternative, Difference, FloatGraph
from rtc.calibration.sensitivity.assembly import Assembly, shared_constants
from rtc.calibration.sensitivity.shapes import batch_size
from rtc.compiler.core.arrays import Array, Float64Array
from rtc.compiler.core.data import Split
from rtc.compiler.core.passes import Statistics, TensorRange
from rtc.compiler.core.progress import Progress, silent

_BINS = 4096
_ROOM = 0.25  # of the plain range, on either side: what is rounded may exceed what was not


def matched_ranges(
    reference: bytes,
    quantised: bytes,
    tensors: Mapping[str, str],
    plain: Statistics,
    split: Split,
    *,
    progress: Progress = silent,
) -> Statistics:
    """The range of each tensor with which the quantised model comes closest to the float one.

    Args:
        reference: the float model.
        quantised: the model with everything before the tensors quantised; what it does to them
            and after them does not matter.
        tensors: name in the quantised model, by name in the float one; computed ones, no inputs.
        plain: their ranges in the float model.
        split: samples; they are walked once.
        progress: told of samples.
    """
    matches = {name: _Match(plain[name]) for name in tensors if not _is_dead(plain[name])}
    if not matches:
        return {}
    here, tensors_there = list(matches), [tensors[name] for name in matches]
    with (
        Oracle(prefix(reference, here), here) as before,
        Oracle(prefix(quantised, tensors_there), tensors_there) as after,
    ):
        for start, inputs in before.batches(split, fitting_batch(before, split)):
            wanted, got = before.run(inputs), after.run(inputs)
            for name, match in matches.items():
                match.add(got[tensors[name]], wanted[name])
            progress(start + len(inputs), len(split), f"{len(matches)} tensors")
    return {name: match.result() for name, match in matches.items()}


def matched_ranges_beside(
    reference: bytes,
    changes: Mapping[Alternative, Mapping[str, str]],
    plain: Statistics,
    split: Split,
    *,
    progress: Progress = silent,
) -> dict[str, Statistics]:
    """The same for models that differ from the float one in one place each, all in one walk.

    Each runs from its change on, beside the float model. Its tensors are taken as they come, before
    any of them has its new range.

    Args:
        reference: the float model.
        changes: for each model its tensors, by their names in the float one.
        plain: their ranges in the float model.
        split: samples; they are walked once.
        progress: told of samples.

    Returns:
        The ranges by the name of the alternative's layer.
    """
    base = FloatGraph(reference)
    part = Assembly(base.model.opset_import)
    part.take_float(base)
    matched: dict[str, dict[str, _Match]] = {}
    places: dict[tuple[str, str], str] = {}
    for index, (alternative, tensors) in enumerate(changes.items()):
        alive = {n: tensor for n, tensor in tensors.items() if not _is_dead(plain[n])}
        names = part.take(Difference(base, alternative), list(alive.values()), prefix=f"{index}/")
        places |= {(alternative.layer, n): names[tensor] for n, tensor in alive.items()}
        matched[alternative.layer] = {name: _Match(plain[name]) for name in alive}
    floats = sorted({name for _, name in places})
    outputs = sorted({*floats, *places.values()})
    if not outputs:
        return {name: {} for name in matched}
    run = session(emulate_half(part.model(base, outputs)), frugal=True)
    feeds = shared_constants(base, [part])
    size = batch_size(base, [*floats, *(name for _, name in places)])
    for start, inputs in split.batches_for(base.batch, size):
        values = run.run(outputs, {**feeds, base.graph.input[0].name: inputs})
        seen = dict(zip(outputs, values, strict=True))
        for (layer, name), tensor in places.items():
            matched[layer][name].add(seen[tensor], seen[name])
        progress(start + len(inputs), len(split), f"{len(matched)} alternatives")
    return {
        layer: {name: match.result() for name, match in matches.items()}
        for layer, matches in matched.items()
    }


def _is_dead(seen: TensorRange) -> bool:
    return seen.seen_low == seen.seen_high == 0.0


class _Match:
    """A histogram of a tensor's quantised values, with the float values that belong there."""

    def __init__(self, plain: TensorRange) -> None:
        self._plain = plain
        self._start = min(plain.seen_low, 0.0) * (1 + _ROOM)
        self._width = (max(plain.seen_high, 0.0) * (1 + _ROOM) - self._start) / _BINS
        self._counts = np.zeros(_BINS, np.int64)
        self._sums: Float64Array = np.zeros(_BINS)
        self._samples = 0

    def add(self, got: Array, wanted: Array) -> None:
        """Take in a batch: values of both models, of the same shape.

        What lies beyond the bins counts in the last one: every range in question ends there or
        before, so it is clipped all the same.
        """
        self._samples += len(got)
        for values, floats in zip(chunks(got), chunks(wanted), strict=True):
            scaled = (values - np.float64(self._start)) / self._width
            places = np.clip(scaled, 0, _BINS - 1).astype(np.int64)
            self._counts += np.bincount(places, minlength=_BINS)
            self._sums += np.bincount(places, floats, minlength=_BINS)

    def result(self) -> TensorRange:
        filled = np.flatnonzero(self._counts)
        counts = self._counts[filled]
        values: Float64Array = self._start + (filled + np.float64(0.5)) * self._width
        seen = min(float(values[0]), 0.0), max(float(values[-1]), 0.0)
        wanted: Float64Array = self._sums[filled] / counts
        (low, high), limit = clipping.least_squares_to(wanted, values, counts, seen)
        kind = f"segmented {self._plain.kind}"
        return replace(
            self._plain, low=low, high=high, limit=limit, kind=kind, samples=self._samples
        )
