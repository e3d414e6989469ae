"""Whether an engine computes its graph: its outputs against those of the graph in the reference.

Runtimes have been seen to compute something else: INT8 kernels that are wrong at some batches, in
models of fixed shape or of any, and FP32 attention that is wrong at a fixed one. No list of such
cases is ever complete, so every engine is held against its own graph, on real samples, at every
batch that it is used at, before a figure of it counts. A runtime that knows several ways to compute
a batch is asked for one after another.

How far off an engine may be, as the squared error of a sample, on average and at worst:

- A float engine: 60 dB below its outputs. Another order of additions leaves 100 dB and more on
  networks of 20 to 60 layers; a wrong kernel leaves none.
- Where the graph rounds to INT8: 1.5 times what that rounding itself does to the outputs, which is
  how far the graph is from the float model. A value that lies between two steps falls to either
  side as additions are ordered, and each layer may turn that into more; but such ties are few, so
  what they come to stays below the rounding of all values (measured: 1.4 to 17 dB below).
- Where it rounds to a half type: 3 times. Runtimes round at other places than the graph does, each
  error as large as the other (measured: from 0.3 dB above to 32 below).
- Where rounding does next to nothing: 30 dB below what outputs differ between samples.
- Where a graph rounds and the float model rounds alike, that is not known: 20 dB.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rtc.compiler.core.data import Array, Split
from rtc.compiler.core.errors import BuilderError, RtcError
from rtc.compiler.core.target import DeviceProfile

if TYPE_CHECKING:
    from rtc.compiler.core.target import Runner

SAMPLES = 8
"""Samples that an engine is held to; at a larger batch they fill it again and again."""

_FLOAT, _ROUNDED, _UNKNOWN = 1e-6, 1e-3, 1e-2  # squared errors: 60, 30 and 20 dB
_TIES, _PLACES = 1.5, 3.0  # times the graph's own rounding: to INT8, and to a half type
_ONE = 4.0  # times more of a single sample than on average
_SURE = 0.1  # of what is allowed: no other form need be asked
_ALIKE = 2.0  # times the error of the best form
_TINY = float(np.finfo(np.float32).tiny)
_INTEGERS = ("QuantizeLinear", "DequantizeLinear", "QLinear", "Integer")  # in operators' names


@dataclass(frozen=True, eq=False)
class Probe:
    """Samples, what a graph makes of them in the reference, and how far off an engine may be.

    Attributes:
        inputs: preprocessed (n, …).
        outputs: by name, (n, …) each.
        allowed: by output, the squared error of a sample: on average, and of any.
    """

    inputs: Array
    outputs: Mapping[str, Array]
    allowed: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Deviation:
    """How far an engine is from its graph in the output where that is most.

    Attributes:
        form: how the runtime computed the batch; "" where it knows one way only.
        decibels: outputs against their error; NaN where the engine's are not finite.
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
        found = f"{self.decibels:.1f} dB, {self.worst:.3g} at worst"
        return f"{self.form}: {found}" if self.form else found


def probe(graph: bytes, model: bytes, split: Split, profile: DeviceProfile) -> Probe:
    """What engines of a graph are held to, on a split's first samples.

    Args:
        graph: what the engine is built from.
        model: the float model behind it.
        split: the samples; a few are enough.
        profile: GPUs round FP32 products to ten bits (TF32), like half types.

    Raises:
        ModelError: the reference does not take either model.
    """
    return of_inputs(graph, model, split.inputs(0, SAMPLES), profile)


def of_inputs(graph: bytes, model: bytes, inputs: Array, profile: DeviceProfile) -> Probe:
    """As `probe`, of preprocessed samples (n, …)."""
    inputs, outputs = _reference(graph, inputs)
    _, floats = _reference(model, inputs)
    rounds = _PLACES if profile.kind == "gpu" else _rounding(graph)
    own = floats.values() if len(floats) == len(outputs) else outputs.values()
    pairs = zip(outputs.items(), own, strict=True)
    allowed = {name: _allowed(mine, before, rounds) for (name, mine), before in pairs}
    return Probe(inputs, outputs, allowed)


def settle(runner: Runner, known: Probe, batch: int) -> Deviation:
    """Let a runner compute a batch in the first of its forms that is right; how far off that is.

    Where a form is not plainly right the others are asked too, and one that is clearly further off
    than another is not taken.

    Raises:
        BuilderError: it is right in none (id "engine-differs"), by how much is told of each.
        RtcError: none of them runs; the first one's reason.
    """
    found: list[Deviation] = []
    failed: list[RtcError] = []
    for form in runner.forms(batch):
        runner.take(batch, form)
        try:
            found.append(_deviation(runner, known, batch, form))
        except RtcError as error:
            failed.append(error)
            continue
        if found[-1].share <= _SURE:
            break
    if not found:
        raise failed[0]
    limit = min(1.0, _ALIKE * min(each.share for each in found))
    chosen = next((each for each in found if each.share <= limit), None)
    if chosen is None:
        raise _differs(found, batch)
    runner.take(batch, chosen.form)
    return chosen


def settled(runner: Runner, known: Probe, batches: Sequence[int]) -> dict[int, str]:
    """The form of every batch, in which the runner computes it from now on.

    Raises:
        RtcError: as `settle`.
    """
    return {batch: settle(runner, known, batch).form for batch in dict.fromkeys(batches)}


def packed(known: Probe) -> tuple[dict[str, Any], dict[str, bytes]]:
    """A probe as JSON types and named blobs, for another process."""
    from rtc.compiler.measure.worker import packed as array

    head, content = array(known.inputs)
    outputs = {name: array(values) for name, values in known.outputs.items()}
    heads = {
        "inputs": head,
        "outputs": [[name, values[0]] for name, values in outputs.items()],
        "allowed": {name: list(bounds) for name, bounds in known.allowed.items()},
    }
    files = {f"output-{i}": blob for i, (_, blob) in enumerate(outputs.values())}
    return heads, {"probe": content, **files}


def unpacked(head: Mapping[str, Any], files: Mapping[str, bytes]) -> Probe:
    """The inverse of `packed`."""
    from rtc.compiler.measure.worker import unpacked as array

    return Probe(
        array(files["probe"], head["inputs"]),
        {name: array(files[f"output-{i}"], h) for i, (name, h) in enumerate(head["outputs"])},
        {name: (bounds[0], bounds[1]) for name, bounds in head["allowed"].items()},
    )


def _reference(proto: bytes, inputs: Array) -> tuple[Array, dict[str, Array]]:
    """Samples and outputs; so many samples more as the model's own batch wants."""
    head = (inputs.dtype.str, inputs.shape)
    shape, outputs = _run(proto, np.ascontiguousarray(inputs).tobytes(), head)
    return np.take(inputs, range(shape), axis=0, mode="wrap"), outputs


@lru_cache(maxsize=8)
def _run(
    proto: bytes, content: bytes, head: tuple[str, tuple[int, ...]]
) -> tuple[int, dict[str, Array]]:
    """How many samples the reference ran, and every output of them.

    The last few are kept: one graph is held to with several numbers of threads, one float model
    with every graph.
    """
    from rtc.calibration.oracle import Oracle

    inputs = np.frombuffer(content, head[0]).reshape(head[1])
    with Oracle(proto) as oracle:
        size = oracle.batch or len(inputs)
        count = math.ceil(len(inputs) / size) * size
        parts = [
            oracle.run(np.take(inputs, range(i, i + size), axis=0, mode="wrap"))
            for i in range(0, count, size)
        ]
    return count, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _rounding(graph: bytes) -> float:
    """How many times a graph's own rounding its engine may be off; 0 where it does not round."""
    import onnx

    from rtc.calibration.rounding import emulate_half

    if emulate_half(graph) != graph:
        return _PLACES
    nodes = onnx.load_model_from_string(graph).graph.node
    integers = any(word in node.op_type for node in nodes for word in _INTEGERS)
    return _TIES if integers else 0.0


def _allowed(mine: Array, floats: Array, rounds: float) -> tuple[float, float]:
    """The squared error of a sample that an engine may have: on average, and of any."""
    mine = np.where(np.isfinite(mine), mine, 0).astype(np.float64)
    power = _squares(mine).mean()
    if not rounds:
        return float(_FLOAT * power), float(_ONE * _FLOAT * power)
    same = mine.shape == floats.shape
    own = _squares(np.where(np.isfinite(floats), mine - floats, 0) if same else 0 * mine)
    spread = _squares(mine - mine.mean(axis=0)).mean() if len(mine) > 1 else power
    known = own.mean() > _FLOAT * _FLOAT * power
    least = max(_ROUNDED * spread, _FLOAT * power) if known else _UNKNOWN * power
    mean = max(rounds * own.mean(), least)
    return float(mean), float(max(rounds * own.max(), _ONE * mean))


def _deviation(runner: Runner, known: Probe, batch: int, form: str) -> Deviation:
    count = len(known.inputs)
    rows = np.arange(batch * max(2, math.ceil(count / batch))) % count
    source = runner.signature.inputs[0].name
    parts = []
    for start in range(0, len(rows), batch):
        inputs = known.inputs[rows[start : start + batch]]
        # A runner may use its buffers again.
        parts.append({n: a.copy() for n, a in runner.run({source: inputs}).items()})
    found = []
    for name, wanted in known.outputs.items():
        seen = np.concatenate([part[name] for part in parts])
        found.append(_compared(seen, wanted[rows], known.allowed[name], form))
    return max(found, key=lambda each: math.inf if math.isnan(each.share) else each.share)


def _compared(seen: Array, wanted: Array, allowed: tuple[float, float], form: str) -> Deviation:
    if seen.shape != wanted.shape:
        return Deviation(form, math.nan, math.inf, math.inf, math.nan)
    kept = np.isfinite(wanted)  # what overflows in the graph may overflow elsewhere, or not
    off = np.where(kept, seen, 0).astype(np.float64) - np.where(kept, wanted, 0)
    errors, power = _squares(off), _squares(np.where(kept, wanted, 0)).mean()
    mean, one = (max(bound, _TINY) for bound in allowed)
    share = max(errors.mean() / mean, errors.max() / one)
    return Deviation(
        form,
        decibels=_decibels(power, errors.mean()),
        worst=float(np.abs(off).max(initial=0.0)),
        share=float(share) if math.isfinite(share) else math.inf,
        least=_decibels(power, mean),
    )


def _squares(values: Array) -> npt.NDArray[np.float64]:
    """The sum of squares of each sample."""
    flat = values.reshape(len(values), -1).astype(np.float64)
    total: npt.NDArray[np.float64] = np.square(flat).sum(axis=1)
    return total


def _decibels(power: float, noise: float) -> float:
    if not math.isfinite(noise):
        return math.nan
    if noise <= 0:
        return math.inf
    return 10 * math.log10(max(power, 1e-300) / noise)


def _differs(found: Sequence[Deviation], batch: int) -> BuilderError:
    return BuilderError(
        "the engine computes something else than its graph",
        where=f"batch {batch}",
        seen="; ".join(map(str, found)),
        expected=f"at least {found[0].least:.1f} dB from its graph in the reference",
        fix="leave this candidate out, or compile for another batch",
        id="engine-differs",
    )
