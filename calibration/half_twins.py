"""What a half type does to a model's tensors, seen beside the float model on samples.

`Beside.alone` gives each node what the float model gives it, rounded, so that its own loss shows;
`Beside.together` runs a graph with half types in it, where losses add up.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rtc.calibration.decibels import decibels
from rtc.calibration.oracle import session, with_outputs
from rtc.calibration.rounding import emulate_half, in_steps, rounded, widened
from rtc.calibration.seen_sizes import seen_sizes
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.data import Split, filled
from rtc.compiler.core.tensors import types_of

if TYPE_CHECKING:
    import onnx

_SAMPLES, _LEAST = 32, 4
_VALUES = 1 << 26  # that are compared at a time; and in all, if `_LEAST` samples have no more


@dataclass(frozen=True)
class Twin:
    """A node as it is computed in a plan: `rounds` names what it reads in half.

    `half`: its outputs are rounded too; a float node may well read what is stored in half.
    """

    rounds: frozenset[str]
    half: bool


@dataclass(frozen=True)
class Seen:
    """A tensor in half beside itself in float.

    Attributes:
        peak: the largest magnitude to expect of the float one: as far above the largest seen as
            that lies above a typical sample's. Other samples reach further than those at hand.
        snr_db: 10 · log10(Σ y² / Σ (y' - y)²) over all samples.
        broken: "inf" or "nan" where the float one is finite; "" where nothing is.
    """

    peak: float
    snr_db: float
    broken: str


class Beside:
    """A float model on samples, beside which graphs with half types in them are looked at.

    Tensors are compared some at a time, so that memory is bounded whatever the batch is.

    Args:
        proto: the float model; its nodes have names, its types can be inferred.
        split: samples; of a large model, a few of them are taken.
        batch: how many run at a time.
    """

    def __init__(self, proto: bytes, split: Split, batch: int) -> None:
        import onnx

        self.proto, self.split, self.batch = proto, split, batch
        self.model = onnx.load_model_from_string(proto)
        types = types_of(self.model, trusting=True)
        made = {name for node in self.model.graph.node for name in node.output}
        self.floats = {n for n in made & types.keys() if types[n].kind == onnx.TensorProto.FLOAT}
        some = filled(split.inputs(0, batch), batch)
        shapes, _ = seen_sizes(proto, some, self.floats)
        self.sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        self._kept: dict[tuple[str, ...], list[dict[str, Array]]] = {}

    def alone(self, twins: Mapping[str, Twin], half: str) -> dict[str, Seen]:
        """Each float output of the nodes that `twins` names, and the model's input, by name.

        Args:
            twins: by the node's name.
            half: "fp16" or "bf16".
        """
        made = {
            node.name: [name for name in node.output if name in self.floats]
            for node in self.model.graph.node
            if node.name in twins
        }
        starts = self._starts(name for names in made.values() for name in names)
        tallies: dict[str, _Tally] = defaultdict(_Tally)
        source = self.model.graph.input[0].name
        for start in starts:
            inputs = self.split.inputs(start, start + self.batch)
            tallies[source].add(inputs, inputs)
        for group in self._groups(made):
            part = {name: twins[name] for name in group}
            model, pairs = _with_twins(self.proto, self.model, part, self.floats, half)
            run = _running(model, {*pairs, *pairs.values()})
            for start in starts:
                seen = run(self.split.inputs(start, start + self.batch))
                for name, twin in pairs.items():
                    tallies[name].add(seen[name], seen[twin])
        return {name: tally.seen() for name, tally in tallies.items()}

    def together(self, changed: bytes, tensors: Sequence[str]) -> dict[str, Seen]:
        """`tensors`, by name, beside those of the same model with half types written into it."""
        emulated = emulate_half(changed)
        floats = widened(emulated, tensors)
        starts = self._starts(tensors)
        tallies: dict[str, _Tally] = defaultdict(_Tally)
        for group in self._groups({name: [name] for name in tensors}):
            run = _running(emulated, [floats[name] for name in group])
            for start, wanted in zip(starts, self._wanted(group, starts), strict=True):
                got = run(self.split.inputs(start, start + self.batch))
                for name in group:
                    tallies[name].add(wanted[name], got[floats[name]])
        return {name: tally.seen() for name, tally in tallies.items()}

    def _wanted(self, group: tuple[str, ...], starts: Sequence[int]) -> Iterator[dict[str, Array]]:
        """The float model's tensors, batch by batch; kept for the next graph if they are few."""
        if group in self._kept:
            yield from self._kept[group]
            return
        run = _running(self.proto, group)
        few = len(starts) * sum(self.sizes.values()) <= 2 * _VALUES
        for start in starts:
            wanted = run(self.split.inputs(start, start + self.batch))
            if few:
                self._kept.setdefault(group, []).append(wanted)
            yield wanted

    def _starts(self, tensors: Iterable[str]) -> list[int]:
        """The first sample of each batch."""
        batch = self.batch
        end = min(len(self.split) // batch * batch, -(-_SAMPLES // batch) * batch)
        values = sum(self.sizes[name] for name in tensors)
        starts = range(0, end, batch)
        return [n for i, n in enumerate(starts) if n < _LEAST or i * values <= _VALUES]

    def _groups(self, tensors: Mapping[str, Iterable[str]]) -> Iterator[tuple[str, ...]]:
        """The keys, as many at a time as their tensors may be compared."""
        group: list[str] = []
        values = 0
        for key, names in tensors.items():
            more = sum(self.sizes[name] for name in names)
            if group and values + more > _VALUES:
                yield tuple(group)
                group, values = [], 0
            group.append(key)
            values += more
        if group:
            yield tuple(group)


def _running(proto: bytes, tensors: Iterable[str]) -> Callable[[Array], dict[str, Array]]:
    """A function from a model's input to `tensors`, by name."""
    outputs = sorted(set(tensors))
    running = session(with_outputs(proto, outputs))
    (source,) = running.get_inputs()

    def run(inputs: Array) -> dict[str, Array]:
        return dict(zip(outputs, running.run(outputs, {source.name: inputs}), strict=True))

    return run


def _with_twins(
    proto: bytes,
    model: onnx.ModelProto,
    twins: Mapping[str, Twin],
    floats: AbstractSet[str],
    half: str,
) -> tuple[bytes, dict[str, str]]:
    """The model with the twins in it, and the twin of each of their float outputs."""
    import onnx

    wanted = {name for twin in twins.values() for name in twin.rounds}
    nodes = [each for name in sorted(wanted) for each in rounded(name, f"{name}/as-half", half)]
    pairs: dict[str, str] = {}
    for node in model.graph.node:
        if node.name in twins:
            nodes += _twin(node, twins[node.name], floats, half, pairs)
    more = onnx.ModelProto()
    more.graph.node.extend(nodes)  # behind the model's own, when all that they read is there
    return proto + bytes(more.SerializeToString()), pairs


def _twin(
    node: onnx.NodeProto, how: Twin, floats: AbstractSet[str], half: str, pairs: dict[str, str]
) -> list[onnx.NodeProto]:
    import onnx

    twin = onnx.NodeProto()
    twin.CopyFrom(node)
    twin.name = f"{node.name}/twin"
    twin.input[:] = [f"{name}/as-half" if name in how.rounds else name for name in node.input]
    twin.output[:] = [f"{name}/twin" if name else "" for name in node.output]
    made = in_steps(twin, half) if how.half else [twin]
    for name in node.output:
        if name not in floats:
            continue
        pairs[name] = f"{name}/twin"
        if how.half:
            pairs[name] = f"{name}/twin-as-half"
            made += rounded(f"{name}/twin", pairs[name], half)
    return made


class _Tally:
    """Sums over the samples of one tensor."""

    def __init__(self) -> None:
        self.peaks: list[float] = []
        self.signal = self.noise = 0.0
        self.broken = ""

    def add(self, wanted: Array, got: Array) -> None:
        wanted, got = wanted.astype(np.float32), got.astype(np.float32)
        finite = np.isfinite(wanted)
        if not finite.all():  # the model's own infinities are no loss where they stay the same
            same = (wanted == got) | (np.isnan(wanted) & np.isnan(got))
            self._break(got[~finite & ~same])
            wanted, got = wanted[finite], got[finite]
        peak = float(np.abs(wanted).max(initial=0.0))
        self.peaks.append(peak)
        sound = np.isfinite(got)
        if not sound.all():
            self._break(got[~sound])
            return
        unit = max(peak, float(np.abs(got).max(initial=0.0))) or 1.0
        wanted, got = wanted / unit, got / unit  # or squares would overflow
        off = got - wanted
        self.signal += float(np.vdot(wanted, wanted)) * unit * unit
        self.noise += float(np.vdot(off, off)) * unit * unit

    def _break(self, values: Array) -> None:
        if values.size:
            self.broken = "nan" if np.isnan(values).any() else "inf"

    def seen(self) -> Seen:
        top = max(self.peaks)
        beyond = top - float(np.median(self.peaks))
        snr = decibels(self.signal, self.noise)
        return Seen(top + beyond, snr, self.broken)
