"""What a half type does to a model's tensors, seen beside the float model on samples.

`alone` gives each node what the float model gives it, rounded, so that its own loss shows;
`together` runs a graph with half types in it, where losses add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rtc.calibration.decibels import decibels
from rtc.calibration.oracle import session, with_outputs
from rtc.calibration.rounding import emulate_half, in_steps, rounded, widened
from rtc.compiler.core.data import Array, Split

if TYPE_CHECKING:
    import onnx

_SAMPLES, _LEAST = 32, 4
_VALUES = 1 << 26  # that are compared at most, if that takes no fewer samples than `_LEAST`


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


def alone(
    proto: bytes, twins: Mapping[str, Twin], half: str, split: Split, batch: int
) -> dict[str, Seen]:
    """Each float output of the nodes that `twins` names, and the model's input, by name.

    Args:
        proto: the float model; its nodes have names, its types can be inferred.
        twins: by the node's name.
        half: "fp16" or "bf16".
        split: samples; of a large model, a few of them are taken.
        batch: how many run at a time.
    """
    model, pairs = _with_twins(proto, twins, half)
    source, run = _running(model, {*pairs, *pairs.values()})

    def compare(inputs: Array) -> Iterator[tuple[str, Array, Array]]:
        seen = run(inputs)
        yield source, inputs, inputs
        for name, twin in pairs.items():
            yield name, seen[name], seen[twin]

    return _tallied(compare, split, batch)


def together(
    proto: bytes, changed: bytes, tensors: Sequence[str], split: Split, batch: int
) -> dict[str, Seen]:
    """`tensors`, by name, of a float model and of the same with half types written into it."""
    emulated = emulate_half(changed)
    floats = widened(emulated, tensors)
    (_, reference), (_, result) = _running(proto, tensors), _running(emulated, floats.values())

    def compare(inputs: Array) -> Iterator[tuple[str, Array, Array]]:
        wanted, got = reference(inputs), result(inputs)
        return ((name, wanted[name], got[floats[name]]) for name in tensors)

    return _tallied(compare, split, batch)


def _running(
    proto: bytes, tensors: Iterable[str]
) -> tuple[str, Callable[[Array], dict[str, Array]]]:
    """The name of a model's input, and a function from inputs to `tensors`, by name."""
    outputs = sorted(set(tensors))
    running = session(with_outputs(proto, outputs))
    (source,) = running.get_inputs()

    def run(inputs: Array) -> dict[str, Array]:
        return dict(zip(outputs, running.run(outputs, {source.name: inputs}), strict=True))

    return source.name, run


def _with_twins(proto: bytes, twins: Mapping[str, Twin], half: str) -> tuple[bytes, dict[str, str]]:
    """The model with the twins in it, and the twin of each of their float outputs."""
    import onnx

    model = onnx.load_model_from_string(proto)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    floats = {
        each.name
        for each in (*inferred.value_info, *inferred.output)
        if each.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
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
    node: onnx.NodeProto, how: Twin, floats: set[str], half: str, pairs: dict[str, str]
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


def _tallied(
    compare: Callable[[Array], Iterable[tuple[str, Array, Array]]], split: Split, batch: int
) -> dict[str, Seen]:
    tallies: dict[str, _Tally] = {}
    values = 0
    end = min(len(split) // batch * batch, -(-_SAMPLES // batch) * batch)
    for start in range(0, end, batch):
        if start >= _LEAST and values > _VALUES:
            break
        for name, wanted, got in compare(split.inputs(start, start + batch)):
            tallies.setdefault(name, _Tally()).add(wanted, got)
            values += wanted.size
    return {name: tally.seen() for name, tally in tallies.items()}


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
