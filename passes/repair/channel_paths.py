"""Pairs of layers, and where the first one's output channels go: to which inputs of the second.

Between them h may move channels (Flatten, Transpose, a shuffle), as long as scaling each by a
positive factor scales what arrives by the same factors: h(x · s) = h(x) · s. That is a property of
operators (`_HOMOGENEOUS`). Which channel arrives where is not read off shapes, where sizes may
agree by chance: h is run on random values, and again with each channel times a factor of its own,
and every input of the second layer is told by the factor that arrives there. The factors lie far
apart, and are turned upside down as well: of any two channels each is once by far the larger, so
that what takes a maximum across them shows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rtc.compiler.core.arrays import Float64Array, Int64Array
from rtc.compiler.core.operators import WEIGHTED, op_of
from rtc.passes.repair.channels import bias_obstacle
from rtc.passes.support.layers import Layer, weighted_layers
from rtc.passes.support.onnx_graph import is_output, moves, value, write

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from rtc.compiler.core.arrays import Array
    from rtc.compiler.core.data import Split
    from rtc.compiler.core.unit import Unit


NOWHERE = -1
"""The source of an input channel that is always zero."""

_HOMOGENEOUS = frozenset(
    {
        "AveragePool",
        "DepthToSpace",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "LeakyRelu",
        "MaxPool",
        "PRelu",
        "ReduceMax",
        "ReduceMean",
        "ReduceSum",
        "Relu",
        "Slice",
        "SpaceToDepth",
    }
)
"""f(c · x) = c · f(x) for every c > 0, whatever the attributes and the inputs after the first."""

_DIGITS = 17  # the factors of one run; it tells one digit of a channel's number, from -8 to 8
_APART = 6.0  # powers of 2 between two of them: more than lie between values, or sums of some
_ERROR = 1e-5  # of a factor, which is exact in float32
_SAMPLES = 2  # so that what mixes samples shows


@dataclass(frozen=True, eq=False)
class Path:
    """Two layers and what lies between them.

    Attributes:
        first, second: the layers.
        clips: ReLU6 between them: no scaling's equals, unless they become ReLU.
    """

    first: Layer
    second: Layer
    clips: tuple[gs.Node, ...]


@dataclass(frozen=True, eq=False)
class Pair(Path):
    """A path whose channels arrive one by one.

    Attributes:
        source: the output channel of `first` that each input channel of `second` is, or `NOWHERE`.
    """

    source: Int64Array

    def read(self, factors: Float64Array) -> Float64Array:
        """Factors of the first layer's output channels, by the second's input channels."""
        return np.append(factors, 1.0)[self.source]

    def largest(self, ranges: Float64Array) -> Float64Array:
        """Of values ≥ 0 of the second's input channels the largest, by the first's output channels.

        A channel that does not arrive has 0.
        """
        values = np.zeros(self.first.channels[1] + 1)
        np.maximum.at(values, self.source, ranges)
        return values[:-1]


def pairs(graph: gs.Graph, unit: Unit, split: Split) -> dict[str, Pair | str]:
    """For each layer of a unit's graph the pair that it is the first of, or why there is none.

    Every ReLU6 between two layers counts as a ReLU. `split` gives the samples that are run.
    """
    layers = {layer.name: layer for layer in weighted_layers(graph)}
    paths_or_reasons = {name: _path(graph, layer, layers) for name, layer in layers.items()}
    paths = {name: each for name, each in paths_or_reasons.items() if isinstance(each, Path)}
    result: dict[str, Pair | str] = {
        n: each for n, each in paths_or_reasons.items() if isinstance(each, str)
    }
    if not paths:
        return result
    smooth = graph.copy()
    clips = {clip.name for path in paths.values() for clip in path.clips}
    for node in smooth.nodes:
        if node.name in clips:
            to_relu(node)
    seen = _sources(write(smooth, unit).onnx.proto, list(paths.values()), split)
    for (name, each), source in zip(paths.items(), seen, strict=True):
        mixed = f"{each.second.name} behind it does not read its channels one by one"
        pair = Pair(each.first, each.second, each.clips, source) if source is not None else mixed
        result[name] = pair
    return {name: result[name] for name in layers}


def to_relu(node: gs.Node) -> None:
    """Let a Clip cut at zero alone."""
    node.op, node.inputs, node.attrs = "Relu", node.inputs[:1], type(node.attrs)()


def _path(graph: gs.Graph, first: Layer, layers: Mapping[str, Layer]) -> Path | str:
    """The way from a layer to the next one, or why scaling has none."""
    reason = first.obstacle or ("" if first.op == "MatMul" else bias_obstacle(first))
    tensor = first.node.outputs[0]
    clips: list[gs.Node] = []
    while not reason:
        readers = [node for node in tensor.outputs if op_of(node) not in ("Shape", "Size")]
        if is_output(graph, tensor):
            return f"{tensor.name} is an output of the model"
        if len(readers) != 1:
            return f"{tensor.name} has {len(readers)} readers"
        (node,) = readers
        ahead = node.inputs[0] is tensor
        if ahead and op_of(node) in WEIGHTED:
            second = layers[node.name]
            reason = second.obstacle and f"{second.name} behind it: {second.obstacle}"
            return reason or Path(first, second, tuple(clips))
        if ahead and _is_relu6(node):
            clips.append(node)
        elif not ahead or not _scales(node):
            reason = f"{node.name} ({node.op}) reads it, and is no scaling's equal"
        tensor = node.outputs[0]
    return reason


def _scales(node: gs.Node) -> bool:
    """Whether a node does the same to scaled values, whatever these are."""
    relu = op_of(node) == "Clip" and _limits(node) == (0.0, math.inf)
    return relu or op_of(node) in _HOMOGENEOUS or moves(node)


def _is_relu6(node: gs.Node) -> bool:
    """Whether a node cuts at zero, and at some limit above it."""
    return op_of(node) == "Clip" and _limits(node)[0] == 0.0 and math.isfinite(_limits(node)[1])


def _limits(node: gs.Node) -> tuple[float, float]:
    """What a Clip cuts to; NaN where a limit is not constant."""
    limits = []
    for index, key, default in ((1, "min", -math.inf), (2, "max", math.inf)):
        limit = value(node, index)
        if limit is not None:
            limits.append(float(limit.reshape(-1)[0]))
        elif len(node.inputs) > index and node.inputs[index].name:
            limits.append(math.nan)
        else:
            limits.append(float(node.attrs.get(key, default)))
    return limits[0], limits[1]


def _sources(proto: bytes, paths: Sequence[Path], split: Split) -> list[Int64Array | None]:
    """`Pair.source` of each path of a model, its tensors known by name; None where there is none.

    Raises:
        ModelError: ONNX Runtime does not take the model.
    """
    from rtc.calibration.oracle import Oracle, session
    from rtc.calibration.prefix import prefix

    made = [path.first.node.outputs[0].name for path in paths]
    read = [path.second.node.inputs[0].name for path in paths]
    with Oracle(prefix(proto, made), made) as oracle:
        count = oracle.batch or _SAMPLES
        few = split.inputs(0, count)
        inputs = np.resize(few, (count, *few.shape[1:]))
        shapes = {name: values.shape for name, values in oracle.run(inputs).items()}
        given = {oracle.input_name: inputs}
    random = np.random.default_rng(0)
    between = session(prefix(proto, read, made))
    plain = {name: random.uniform(1, 2, shapes[name]).astype(np.float32) for name in made}
    before = between.run(read, given | plain)
    numbers = [np.zeros(values.shape) for values in before]
    for place in range(_places(paths)):
        up, down = (
            between.run(read, given | _scaled(plain, paths, place, sign)) for sign in (1, -1)
        )
        numbers = [
            number + _DIGITS**place * _digits(*values)
            for number, *values in zip(numbers, before, up, down, strict=True)
        ]
    return [_source(*each) for each in zip(paths, before, numbers, strict=True)]


def _places(paths: Sequence[Path]) -> int:
    """How many digits the number of a channel has."""
    most = max(path.first.channels[1] for path in paths)
    return next(places for places in itertools.count(1) if _DIGITS**places >= most)


def _scaled(
    plain: Mapping[str, Array], paths: Sequence[Path], place: int, sign: int
) -> dict[str, Array]:
    """What the first layers make, each channel times the factor of a digit of its number."""
    scaled = {}
    for (name, values), path in zip(plain.items(), paths, strict=True):
        shape = [1] * values.ndim
        shape[path.first.channel_axis] = -1
        digits = np.arange(path.first.channels[1]) // _DIGITS**place % _DIGITS - _DIGITS // 2
        factors = np.exp2(sign * _APART * digits).astype(np.float32)
        scaled[name] = values * factors.reshape(shape)
    return scaled


def _digits(before: Array, up: Array, down: Array) -> Float64Array:
    """The digits, from 0 on, whose factors lie between what arrived before and after scaling.

    NaN where it is no channel's factor; any digit where nothing arrives.
    """
    powers = [_powers(before, after) / _APART for after in (up, down)]
    agree = (powers[0] == np.rint(powers[0])) & (powers[0] == -powers[1])
    return np.where(agree, powers[0] + _DIGITS // 2, np.nan)


def _powers(before: Array, after: Array) -> Float64Array:
    """Powers of 2 between values; NaN where it is no whole one."""
    live = before != 0
    still = np.where(after == before, 1.0, np.nan)
    factors = np.divide(after, before, out=still, where=live, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        powers = np.rint(np.log2(factors))
        return np.where(np.abs(factors - np.exp2(powers)) <= _ERROR * factors, powers, np.nan)


def _source(path: Path, values: Array, numbers: Float64Array) -> Int64Array | None:
    """The channel that each input of the second layer is, of what arrives at each place."""
    axis = path.second.channel_axis
    values, numbers = (np.moveaxis(each, axis, 0) for each in (values, numbers))
    values, numbers = (each.reshape(len(each), -1) for each in (values, numbers))
    live = values != 0
    some = live.any(axis=1)
    first = np.where(live, numbers, np.inf).min(axis=1)
    last = np.where(live, numbers, -np.inf).max(axis=1)
    if np.isnan(numbers).any() or (first != last)[some].any():
        return None
    return np.where(some, last, NOWHERE).astype(np.int64)
