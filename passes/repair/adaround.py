"""`adaround`: INT8 weights rounded for the layer's outputs to be nearest, and not the weights.

    W  →  s·q,   q = argmin E|s·q·x̂ - W·x̂|²   over q_ij ∈ {⌊W_ij / s_i⌋, ⌈W_ij / s_i⌉}

x̂ are the layer's quantised inputs over the calibration set, s the scales that insert-qdq stores its
weights with: weights s·q are what it rounds back to just these q, for the weight that a scale was
taken from stays. The objective and the choice of integers are AdaRound's (Nagel et al. 2020,
arXiv:2004.10568), the solver is not: coordinate descent on E[x̂ x̂ᵀ] in place of gradients through
rectified sigmoids (rtc.calibration.adaptive_rounding).

Only layers below `below_snr_db` are learned, because each takes two runs of the layers before it.
Three of four samples are learned from, the fourth judges: a layer whose error there does not fall
keeps its weights, and where the model's outputs come no nearer to the float model's, all do.

`details`: `layers` (decibels at each layer's output for its weights' error alone, [before, after]),
`left` (reason by layer), `snr_db` (of the quantised model's output, [before, after]); all of them
on the judging samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from rtc.compiler.core.arrays import Float64Array
from rtc.compiler.core.pairs import partners
from rtc.compiler.core.passes import PassContext, PassResult
from rtc.compiler.core.unit import Unit
from rtc.passes.quantise.qdq import int8_layers, stored_weight_parameters
from rtc.passes.repair.channels import put_weights, weights_of
from rtc.passes.repair.quantising_repair import Repair
from rtc.passes.support.layers import Layer, origin
from rtc.passes.support.onnx_graph import Names, read, write

if TYPE_CHECKING:
    from rtc.calibration.quantise import Parameters
    from rtc.compiler.core.data import Split

_MOST_INPUTS = 8192  # n × n doubles of input statistics: half a GiB


@dataclass(frozen=True)
class Adaround(Repair):
    """Choose for each weight of the INT8 layers that need it whether to round it up or down.

    Attributes:
        below_snr_db: learn the layers whose signal-to-noise ratio in INT8 is below this.
        samples: calibration samples to use at most.
        max_disagreement: the fraction of samples whose top-1 class may change, float to INT8; none
            where the gates alone are to judge.
    """

    name: ClassVar[str] = "adaround"
    below_snr_db: Annotated[float, Field(ge=-200, le=200)] = 40.0

    def apply(self, unit: Unit, ctx: PassContext) -> PassResult:
        from rtc.calibration.held_out import learn_and_judge

        graph = read(unit)
        plain = write(read(unit), unit)  # with its weights where input_gram looks for them
        layers = int8_layers(graph, ctx.planned())
        reasons = {layer.name: self._reason(layer, ctx) for layer in layers}
        left = {name: reason for name, reason in reasons.items() if reason}
        learned = {}
        splits, names = learn_and_judge(ctx.calibration(), self.samples, unit), Names(graph)
        for number, layer in enumerate(layers):
            if layer.name not in left:
                learned[layer.name] = _learn(names, layer, plain, splits, ctx)
            ctx.progress(number + 1, len(layers), layer.name)
        details: dict[str, Any] = {"layers": learned, "left": left}
        better = [name for name, (before, after) in learned.items() if after > before]
        if not better:
            return self.unchanged(unit, ctx, "no layer's rounding is better learned", details)
        what = f"{len(better)} layers rounded"
        return self.weighed(
            unit, write(graph, unit), ctx, judge=splits[1], details=details, what=what
        )

    def _reason(self, layer: Layer, ctx: PassContext) -> str:
        """Why a layer is not learned; "" where it is."""
        decision = ctx.planned().layers.get(layer.name)
        snr = decision.snr_db if decision else None
        if snr is not None and snr >= self.below_snr_db:
            return f"{snr:.1f} dB ≥ {self.below_snr_db:g} dB"
        if layer.op == "ConvTranspose":
            return "the inputs of a ConvTranspose make no patches"
        inputs = weights_of(layer)[0, 0].size
        if inputs > _MOST_INPUTS:
            return f"{inputs} inputs a channel, more than {_MOST_INPUTS}"
        return ""


def _learn(
    names: Names, layer: Layer, unit: Unit, splits: Sequence[Split], ctx: PassContext
) -> tuple[float, float]:
    """Round one layer's weights where that helps; decibels at its output before and after."""
    from rtc.calibration.adaptive_rounding import adaptive_rounding, error_power
    from rtc.calibration.decibels import decibels
    from rtc.calibration.gram import input_gram
    from rtc.calibration.quantise import activation_parameters

    scheme = ctx.where().scheme
    activation = activation_parameters(
        ctx.statistics[origin(layer.node.inputs[0]).name], scheme.activation
    )
    learn, judge = (
        input_gram(unit.onnx.proto, layer.name, layer.groups, activation, split, seed=ctx.seed)
        for split in splits
    )
    weights, scale = _matrices(layer, stored_weight_parameters(layer, activation.scale, scheme))
    nearest = np.clip(np.rint(weights / scale), -127, 127)
    pairs = partners(weights_of(layer).shape[2:]) if layer.paired(scheme) else ()
    rounded = np.stack(
        [adaptive_rounding(*each, pairs) for each in zip(weights, scale, learn, strict=True)]
    )
    signal, before, after = (
        sum(error_power(*each) for each in zip(errors, judge, strict=True))
        for errors in (weights, nearest * scale - weights, rounded * scale - weights)
    )
    if after < before:
        put_weights(names, layer, rounded * scale)
    return round(decibels(signal, before), 2), round(decibels(signal, min(before, after)), 2)


def _matrices(layer: Layer, stored: Parameters) -> tuple[Float64Array, Float64Array]:
    """A layer's weights (groups, out, n) and their scales (groups, out, 1)."""
    weights = weights_of(layer)
    scale = np.broadcast_to(stored.scale.reshape(-1), (layer.channels[1],)).astype(np.float64)
    return weights.reshape(*weights.shape[:2], -1), scale.reshape(layer.groups, -1, 1)
