"""`equalize`: the channels of neighbouring layers brought to one range, without changing the model.

    L₂(h(L₁(x, W₁, b₁)), W₂)  →  L₂(h(L₁(x, W₁/s, b₁/s)), W₂·s)      s = √(r₁ / r₂)

for every h with h(x/s) = h(x)/s, channel by channel: ReLU, LeakyReLU, pools, flattening, nothing
(`channel_paths` finds which channel arrives where). r₁ holds the largest |weight| of each
output channel of L₁, r₂ that of each input channel of L₂; both become √(r₁·r₂), which maximises the
precision of all channels together. Pairs overlap, so they are balanced in turn until every factor
is within 1 %. (Cross-layer equalisation: Nagel et al. 2019, arXiv:1906.04721, section 4.1.)

ReLU6 is not such an h. `relu6: replace` turns one that stands between two layers into a ReLU, while
the top-1 class changes for no more than `max_disagreement` of the calibration samples in all; where
all of them together go beyond that, they are tried one by one in graph order. That is the change
that the pass states; what it does to weights is exact against the model with that change alone.

`details`: `pairs` (layers, and the ratio of the largest to the smallest channel range on the worse
side, before and after), `stopped` (reason by layer), `relu6` ("replaced" or the reason, by node).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from rtc.compiler.core.arrays import Float64Array
from rtc.compiler.core.passes import Bound, Bounded, Exact, Pass, PassContext, PassResult, Stated
from rtc.compiler.core.unit import Level, Unit
from rtc.passes.repair.channel_paths import Pair, pairs, to_relu
from rtc.passes.repair.channels import bias_of, put_bias, put_weights, weights_of
from rtc.passes.support.onnx_graph import Names, read, write

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

_TOLERANCE = 0.01  # factors nearer to 1 change nothing that INT8 can tell
_SWEEPS = 1000
_DEAD = (
    1e-6  # a channel below this share of its layer's range: scaling it up scales its bias up too
)
_BATCH = 32
_REPLACED = "replaced"
_ROUNDED = Exact(atol=1e-4, rtol=1e-3)
"""Weights are rounded once more to float32, so sums differ in their last digits."""


@dataclass(frozen=True)
class Equalize(Pass):
    """Balance the channel ranges of neighbouring layers before quantising.

    Attributes:
        relu6: keep leaves pairs with a ReLU6 between them alone; replace makes it a ReLU.
        max_disagreement: the fraction of samples whose top-1 class replacing may change.
    """

    name: ClassVar[str] = "equalize"
    takes: ClassVar[Level] = Level.ONNX
    gives: ClassVar[Level] = Level.ONNX

    relu6: Literal["keep", "replace"] = "keep"
    max_disagreement: Annotated[float, Field(ge=0, le=1)] = 0.01

    @property
    def bound(self) -> Bound:
        if self.relu6 == "replace":
            return Bounded("disagreement", self.max_disagreement)
        return _ROUNDED

    def apply(self, unit: Unit, ctx: PassContext) -> PassResult:
        graph = read(unit)
        pairs_or_reasons = pairs(graph, unit, ctx.calibration())
        chosen = [each for each in pairs_or_reasons.values() if isinstance(each, Pair)]
        stopped = {name: each for name, each in pairs_or_reasons.items() if isinstance(each, str)}
        clips = [clip for pair in chosen for clip in pair.clips]
        fates = {clip.name: "ReLU6 is kept" for clip in clips}
        if self.relu6 == "replace" and clips:
            fates = self._judged(graph, unit, list(fates), ctx)
        for pair in list(chosen):
            kept = [clip.name for clip in pair.clips if fates[clip.name] != _REPLACED]
            if kept:
                stopped[pair.first.name] = f"{kept[0]} stands behind it: {fates[kept[0]]}"
                chosen.remove(pair)
        replaced = [clip for clip in clips if fates[clip.name] == _REPLACED]
        for clip in replaced:
            to_relu(clip)
        stated = Stated(write(graph, unit) if replaced else unit, _ROUNDED)
        rows = _equalise(Names(graph), chosen)
        details = {"pairs": rows, "stopped": stopped, "relu6": fates}
        if not rows and not replaced:
            return PassResult(unit, False, "nothing to equalise", details)
        worst = max((row["ratio_before"] for row in rows), default=1.0)
        summary = f"{len(rows)} pairs equalised (channel ranges up to {worst:.3g} : 1 apart)"
        summary += f", {len(replaced)} ReLU6 replaced" if replaced else ""
        return PassResult(write(graph, unit), True, summary, details, stated=stated)

    def _judged(
        self, graph: gs.Graph, unit: Unit, clips: Sequence[str], ctx: PassContext
    ) -> dict[str, str]:
        """What becomes of each ReLU6, within the budget for all of them together."""
        reference = _classes(unit, ctx)

        def harm(names: Sequence[str]) -> float:
            tried = graph.copy()
            for node in tried.nodes:
                if node.name in names:
                    to_relu(node)
            return float(np.mean(_classes(write(tried, unit), ctx) != reference))

        if harm(clips) <= self.max_disagreement:
            return dict.fromkeys(clips, _REPLACED)
        accepted: list[str] = []
        fates = {}
        for clip in clips:
            changed = harm([*accepted, clip])
            if changed <= self.max_disagreement:
                accepted.append(clip)
                fates[clip] = _REPLACED
            else:
                fates[clip] = f"a ReLU would change {100 * changed:.2f} % of the classes"
        return fates


def _classes(unit: Unit, ctx: PassContext) -> Any:
    """The top-1 class of each calibration sample."""
    from rtc.calibration.oracle import Oracle

    with Oracle(unit.onnx.proto) as oracle:
        name = oracle.outputs[0]
        parts = [
            oracle.run(inputs)[name] for _, inputs in oracle.batches(ctx.calibration(), _BATCH)
        ]
    return np.concatenate(parts).argmax(-1)


def _equalise(names: Names, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Balance the pairs; one row for each whose weights changed."""
    layers = {layer.name: layer for pair in pairs for layer in (pair.first, pair.second)}
    weights = {name: weights_of(layer) for name, layer in layers.items()}
    before = [_worst_ratio(pair, weights) for pair in pairs]
    factors = {pair.first.name: np.ones(pair.first.channels[1]) for pair in pairs}
    for _ in range(_SWEEPS):
        steps = [_balance(pair, weights, factors) for pair in pairs]
        if not any(steps):
            break
    changed = [pair for pair in pairs if (factors[pair.first.name] != 1.0).any()]
    for name in dict.fromkeys(n for pair in changed for n in (pair.first.name, pair.second.name)):
        put_weights(names, layers[name], weights[name])
    for pair in changed:
        bias = bias_of(pair.first)
        if bias is not None:
            put_bias(names, pair.first, bias / factors[pair.first.name])
    return [
        {
            "first": pair.first.name,
            "second": pair.second.name,
            "ratio_before": ratio,
            "ratio_after": _worst_ratio(pair, weights),
        }
        for pair, ratio in zip(pairs, before, strict=True)
        if (factors[pair.first.name] != 1.0).any()
    ]


def _balance(
    pair: Pair, weights: dict[str, Float64Array], factors: dict[str, Float64Array]
) -> bool:
    """One step for one pair; whether any factor was beyond the tolerance."""
    made, read_ = _ranges(pair, weights)
    alive = (made > _DEAD * made.max()) & (read_ > _DEAD * read_.max())
    scale = np.ones_like(made)
    scale[alive] = np.sqrt(made[alive] / read_[alive])
    if np.abs(scale - 1).max() <= _TOLERANCE:
        return False
    first, second = pair.first, pair.second
    weights[first.name] /= scale.reshape(first.groups, -1, 1, 1)
    weights[second.name] *= pair.read(scale).reshape(second.groups, 1, -1, 1)
    factors[first.name] *= scale
    return True


def _ranges(pair: Pair, weights: dict[str, Float64Array]) -> tuple[Float64Array, Float64Array]:
    """The largest |weight| by channel: as the first layer makes them, as the second reads them."""
    made = np.abs(weights[pair.first.name]).max(axis=(2, 3)).reshape(-1)
    taken = np.abs(weights[pair.second.name]).max(axis=(1, 3)).reshape(-1)
    return made, pair.largest(taken)


def _worst_ratio(pair: Pair, weights: dict[str, Float64Array]) -> float:
    """The largest range over the smallest, on the worse side; dead channels do not count."""
    ratios = [1.0]
    for ranges in _ranges(pair, weights):
        alive = ranges[ranges > _DEAD * ranges.max()]
        ratios.append(float(alive.max() / alive.min()) if alive.size else 1.0)
    return round(max(ratios), 3)
