"""Whether an engine computes its graph: its outputs against those of the graph in the reference.

Runtimes have been seen to compute something else: INT8 kernels that are wrong at some batches, in
models of fixed shape or of any, and FP32 attention that is wrong at a fixed one. No list of such
cases is ever complete, so every engine is held against its own graph, on real samples, at every
batch that it is used at, before a figure of it counts. A runtime that knows several ways to compute
a batch is asked for one after another.

How far off an engine may be, as the squared error of a sample:

- A float engine on a CPU: 60 dB below what outputs differ between samples. Another order of
  additions leaves 100 dB below the outputs and more on networks of 20 to 60 layers; a wrong kernel
  leaves none.
- Where the graph rounds, or a GPU rounds what float products take: 3 times what that rounding
  itself does to the outputs. Runtimes round at other places than the graph does, and a value that
  lies between two steps falls to either side as additions are ordered: each error is as large as
  the graph's own (measured: 0.3 dB above it and less; wrong kernels: 10 dB above and more).
- Where rounding does next to nothing: 30 dB below what outputs differ; where what it does is not
  known: 20 dB.
- Where the runtime takes one half type for the whole model, it rounds where it likes, and the
  reference may well lose what the engine does not. Where the reference has lost the outputs, the
  float model takes its place, and errors are to be below half of what outputs differ.

Errors of ties are rare and large: of a deep network in INT8 one sample in twenty may be off by ten
times the graph's own rounding, and the others by next to nothing, while a wrong kernel is wrong for
most samples, or in a row of the batch. So an engine is judged by the median; by the mean only where
chance cannot explain it; and by each row of a batch through the best of several samples there.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rtc.calibration.rounding import asks_for_half
from rtc.compiler.core.arrays import Array, Float64Array
from rtc.compiler.core.data import Split
from rtc.compiler.core.errors import BuilderError, RtcError
from rtc.compiler.core.target import DeviceProfile
from rtc.compiler.measure.own_rounding import rounds, unrounded, with_tf32
from rtc.compiler.measure.references import outputs_of, reference

if TYPE_CHECKING:
    from rtc.compiler.core.target import Runner

SAMPLES = 24
"""Samples that an engine is held to at most; at a larger batch they fill it again and again."""

FILE = "probe.npz"
"""What a probe is called among files."""

_FEW, _BYTES = 8, 8 << 20  # samples of large inputs: what takes so many bytes, and no fewer
_STORED_FEW, _STORED_BYTES = 2, 4 << 20  # likewise in a bundle
_EXACT, _FLOAT, _ROUNDED, _UNKNOWN = 1e-9, 1e-6, 1e-3, 1e-2  # 90 dB of the power; of the spread
_LEFT = 0.5  # likewise; the median of squared errors lies below their mean
_PLACES = 3.0  # times the graph's own rounding
_RUNS = 4  # samples in each row of a batch
_CHANCE = 3.0  # standard errors
_SURE = 0.1  # of what is allowed: no other form need be asked
_ALIKE = 2.0  # times the error of the best form
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, eq=False)
class Probe:
    """Samples, what a graph makes of them in the reference, and how far off an engine may be.

    Attributes:
        inputs: preprocessed (n, …).
        outputs: by name, (n, …) each.
        allowed: by output, the squared error of a sample.
    """

    inputs: Array
    outputs: Mapping[str, Array]
    allowed: Mapping[str, float]

    def stored(self) -> Probe:
        """The first samples, a few MB at most, to go with an engine."""
        count = fitting(self.inputs, _STORED_FEW, _STORED_BYTES)
        outputs = {name: values[:count] for name, values in self.outputs.items()}
        return Probe(self.inputs[:count], outputs, self.allowed)


@dataclass(frozen=True)
class Deviation:
    """How far an engine is from its graph in the output where that is most.

    Attributes:
        form: how the runtime computed the batch; "" where it knows one way only.
        decibels: outputs against their error, as it is judged; NaN where the engine's are not
            finite.
        worst: the largest error of an element.
        share: of what is allowed; more than 1 is too much.
        least: the decibels that are asked for.
    """

    form: str
    decibels: float
    worst: float
    share: float
    least: float

    def __str__(self) -> str:
        figures = f"{self.decibels:.1f} dB, {self.worst:.3g} at worst"
        return f"{self.form}: {figures}" if self.form else figures


def probe(graph: bytes, model: bytes, split: Split, profile: DeviceProfile) -> Probe:
    """What engines of a graph are held to, on a split's first samples.

    Args:
        graph: what the engine is built from.
        model: the float model behind it, or one that came in quantised.
        split: the samples; a few are enough.
        profile: GPUs round what FP32 products take to eleven bits (TF32).

    Raises:
        ModelError: the reference does not take either model.
    """
    count = fitting(split.inputs(0, 1), _FEW, _BYTES)
    return of_inputs(graph, model, split.inputs(0, count), profile)


def fitting(inputs: Array, least: int, bytes_: int) -> int:
    """How many samples like the first are within so many bytes, `least` to `SAMPLES`."""
    return min(max(bytes_ // max(inputs[:1].nbytes, 1), least), SAMPLES)


def of_inputs(graph: bytes, model: bytes, inputs: Array, profile: DeviceProfile) -> Probe:
    """As `probe`, of preprocessed samples (n, …)."""
    inputs, outputs = reference(graph, inputs)
    if rounds(graph):
        bare = unrounded(model)
        other, known = outputs_of(bare or model, inputs), bare is not None
        if other is None:
            other, known = outputs_of(model, inputs), False
    elif profile.kind == "gpu":
        other, known = outputs_of(with_tf32(graph), inputs), True
    else:
        allowed = {name: _allowed(values, _FLOAT) for name, values in outputs.items()}
        return Probe(inputs, outputs, allowed)
    others = dict(zip(outputs, other or (), strict=False))
    allowed = {
        name: _of_rounding(mine, others.get(name), known=known) for name, mine in outputs.items()
    }
    if asks_for_half(graph):
        lost = {name: other for name, other in others.items() if _is_lost(outputs[name], other)}
        outputs = {**outputs, **lost}
        allowed |= {name: _at_all(each) for name, each in lost.items()}
    return Probe(inputs, outputs, allowed)


def settle(runner: Runner, known: Probe, batch: int) -> Deviation:
    """Let a runner compute a batch in the first of its forms that is right; how far off that is.

    Where a form is not plainly right the others are asked too, and one that is clearly further off
    than another is not taken.

    Raises:
        BuilderError: it is right in none (id "engine-differs"), by how much is told of each.
        RtcError: none of them runs; the first one's reason.
    """
    deviations: list[Deviation] = []
    failed: list[RtcError] = []
    for form in runner.forms(batch):
        runner.take(batch, form)
        try:
            deviations.append(_deviation(runner, known, batch, form))
        except RtcError as error:
            failed.append(error)
            continue
        if deviations[-1].share <= _SURE:
            break
    if not deviations:
        raise failed[0]
    limit = min(1.0, _ALIKE * min(each.share for each in deviations))
    chosen = next((each for each in deviations if each.share <= limit), None)
    if chosen is None:
        raise _differs(deviations, batch)
    runner.take(batch, chosen.form)
    return chosen


def settled(runner: Runner, known: Probe, batches: Sequence[int]) -> dict[int, str]:
    """The form of every batch, in which the runner computes it from now on.

    Raises:
        RtcError: as `settle`.
    """
    return {batch: settle(runner, known, batch).form for batch in dict.fromkeys(batches)}


def packed(known: Probe, *, small: bool = False) -> bytes:
    """A probe as an `.npz` of plain arrays, for another process, or small for a bundle."""
    names = list(known.outputs)
    arrays: dict[str, Any] = {f"output-{i}": known.outputs[name] for i, name in enumerate(names)}
    arrays["allowed"] = np.array([known.allowed[name] for name in names], np.float64)
    file = io.BytesIO()
    save = np.savez_compressed if small else np.savez
    save(file, inputs=known.inputs, names=np.array(names, np.str_), **arrays)
    return file.getvalue()


def unpacked(content: bytes) -> Probe:
    """The inverse of `packed`.

    Raises:
        ValueError: it is none.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            names = [str(name) for name in arrays["names"]]
            outputs = {name: arrays[f"output-{i}"] for i, name in enumerate(names)}
            allowed = dict(zip(names, map(float, arrays["allowed"]), strict=True))
            return Probe(arrays["inputs"], outputs, allowed)
    except Exception as cause:  # numpy and zipfile raise a dozen unrelated classes
        raise ValueError("not a probe") from cause


def _of_rounding(mine: Array, other: Array | None, *, known: bool) -> float:
    """The squared error that an engine of a graph which rounds may have."""
    if other is None or other.shape != mine.shape:
        return _allowed(mine, _UNKNOWN)
    finite = np.isfinite(mine) & np.isfinite(other)
    mine = np.where(finite, mine, 0).astype(np.float64)
    own = _squares(mine - np.where(finite, other, 0)).mean()
    known = known and own > _FLOAT * _FLOAT * _squares(mine).mean()
    return max(float(_PLACES * own), _allowed(mine, _ROUNDED if known else _UNKNOWN))


def _allowed(mine: Array, share: float) -> float:
    """A share of what outputs differ between samples, or what float32 leaves of their size."""
    mine = np.where(np.isfinite(mine), mine, 0).astype(np.float64)
    power = _squares(mine).mean()
    spread = _squares(mine - mine.mean(axis=0)).mean() if len(mine) > 1 else power
    return float(max(share * spread, _EXACT * power))


def _is_lost(mine: Array, floats: Array) -> bool:
    """Whether a graph in the reference is as far from the float model as that may be at all."""
    if mine.shape != floats.shape or not np.isfinite(floats).all():
        return False
    with np.errstate(invalid="ignore", over="ignore"):
        return not _squares(mine - floats).mean() < _at_all(floats)


def _at_all(floats: Array) -> float:
    """The squared error that leaves next to nothing; all zeros come to twice that and more."""
    return max(_allowed(floats, _LEFT), float(_UNKNOWN * _squares(floats).mean()))


def _deviation(runner: Runner, known: Probe, batch: int, form: str) -> Deviation:
    count = len(known.inputs)
    step = max(1, min(batch, count // _RUNS))  # other samples in every row each time
    starts = step * np.arange(max(_RUNS, math.ceil(count / batch)))
    rows = (starts[:, None] + np.arange(batch)) % count
    source = runner.signature.inputs[0].name
    # A runner may use its buffers again.
    parts = [
        {n: a.copy() for n, a in runner.run({source: known.inputs[row]}).items()} for row in rows
    ]
    deviations = []
    for name, wanted in known.outputs.items():
        seen = [part[name] for part in parts]
        deviations.append(_compared(seen, wanted[rows], count, known.allowed[name], form))
    return max(deviations, key=lambda each: math.inf if math.isnan(each.share) else each.share)


def _compared(
    seen: Sequence[Array], wanted: Array, samples: int, allowed: float, form: str
) -> Deviation:
    """Of runs of a batch, `wanted` (runs, batch, …), that hold so many samples."""
    if any(each.shape != wanted.shape[1:] for each in seen):
        return Deviation(form, math.nan, math.inf, math.inf, math.nan)
    kept = np.isfinite(wanted)  # what overflows in the graph may overflow elsewhere, or not
    wanted = np.where(kept, wanted, 0).astype(np.float64)
    off = np.where(kept, np.stack(seen), 0) - wanted
    flat = off.reshape(-1, *off.shape[2:])
    power = _squares(wanted.reshape(flat.shape)).mean()
    error = _error(_squares(flat).reshape(off.shape[:2]), samples)
    share = error / max(allowed, _TINY)
    return Deviation(
        form,
        decibels=_decibels(power, error),
        worst=float(np.abs(off).max(initial=0.0)),
        share=share if math.isfinite(share) else math.inf,
        least=_decibels(power, max(allowed, _TINY)),
    )


def _error(errors: Float64Array, samples: int) -> float:
    """What squared errors (runs, batch) come to, but for a few ties."""
    if not np.isfinite(errors).all():
        return math.nan
    median = np.sort(errors, axis=None)[(errors.size - 1) // 2]
    by_chance = _CHANCE * errors.std() / math.sqrt(samples)
    row = errors.min(axis=0).max()
    return float(max(median, errors.mean() - by_chance, row))


def _squares(values: Array) -> Float64Array:
    """The sum of squares of each sample."""
    flat = values.reshape(len(values), -1).astype(np.float64)
    total: Float64Array = np.square(flat).sum(axis=1)
    return total


def _decibels(power: float, noise: float) -> float:
    if not math.isfinite(noise):
        return math.nan
    if noise <= 0:
        return math.inf
    return 10 * math.log10(max(power, 1e-300) / noise)


def _differs(deviations: Sequence[Deviation], batch: int) -> BuilderError:
    return BuilderError(
        "the engine computes something else than its graph",
        where=f"batch {batch}",
        seen="; ".join(map(str, deviations)),
        expected=f"at least {deviations[0].least:.1f} dB from its graph in the reference",
        fix="leave this candidate out, or compile for another batch",
        id="engine-differs",
    )
