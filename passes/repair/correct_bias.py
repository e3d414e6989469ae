"""`correct-bias`: the mean error of each INT8 layer taken out of its bias.

    b  →  b - (E[L(x̂, Ŵ, b)] - E[L(x, W, b)])        by output channel, over the calibration set

x and W are the float model's (`PassContext.reference`, or the unit itself), x̂ and Ŵ the quantised
model's. Rounding shifts the mean of a layer's outputs, because its few weights' errors do not
average out, and the layers behind it carry the shift on. Layers are corrected in order, each with
all before it quantised and corrected: what rectified noise adds upstream is then seen too, and no
shift is corrected twice. That takes one run of the layers before it for each layer, so `samples`
bounds it. (Nagel et al. 2019, arXiv:1906.04721, section 4.2 and appendix D: the empirical variant.)

Three of four samples give the means, the fourth judges: where the outputs of the quantised model
come no nearer to the float model's, the biases stay as they were. A layer without a bias gets one.
`details`: `layers` (largest |shift| of a channel by layer, before it was corrected), `left` (reason
by layer), `snr_db` (of the quantised model's output on the judging samples, [before, after]).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from rtc.compiler.core.arrays import Float64Array
from rtc.compiler.core.passes import PassContext, PassResult
from rtc.compiler.core.unit import Unit
from rtc.passes.quantise.qdq import int8_layers, quantised_twin
from rtc.passes.repair.channels import bias_obstacle, bias_of, put_bias
from rtc.passes.repair.quantising_repair import Repair
from rtc.passes.support.layers import Layer, weighted_layers
from rtc.passes.support.onnx_graph import Names, read, write

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from rtc.compiler.core.data import Split
    from rtc.compiler.core.progress import Progress


@dataclass(frozen=True)
class CorrectBias(Repair):
    """Take the mean error that INT8 adds to each layer out of its bias.

    Attributes:
        samples: calibration samples to use at most.
        max_disagreement: the fraction of samples whose top-1 class may change, float to INT8; none
            where the gates alone are to judge.
    """

    name: ClassVar[str] = "correct-bias"
    samples: Annotated[int, Field(ge=1)] = 256

    def apply(self, unit: Unit, ctx: PassContext) -> PassResult:
        from rtc.calibration.held_out import learn_and_judge

        graph = read(unit)
        int8 = int8_layers(graph, ctx.planned())
        left = {layer.name: bias_obstacle(layer) for layer in int8 if bias_obstacle(layer)}
        layers = [layer for layer in int8 if layer.name not in left]
        if not layers:
            summary = "no INT8 layer has a bias to correct"
            return self.unchanged(unit, ctx, summary, {"left": left})
        learn, judge = learn_and_judge(ctx.calibration(), self.samples, unit)
        shifts = _correct(graph, layers, unit, learn, ctx)
        largest = {name: float(np.abs(shift).max()) for name, shift in shifts.items()}
        details = {"layers": largest, "left": left}
        what = f"{len(layers)} biases corrected"
        return self.weighed(unit, write(graph, unit), ctx, judge=judge, details=details, what=what)


def _correct(
    graph: gs.Graph, layers: Sequence[Layer], unit: Unit, split: Split, ctx: PassContext
) -> dict[str, Float64Array]:
    """Correct the biases in `graph`, which is `unit`'s; how far each layer's mean had moved."""
    biases = {layer.name: _bias(layer) for layer in layers}
    start = read(unit)
    names = Names(start)
    for layer in weighted_layers(start):
        if layer.name in biases:
            put_bias(names, layer, biases[layer.name])
    twin = quantised_twin(write(start, unit), ctx)
    shifts = _shifts(ctx.reference or unit, twin, biases, split, ctx.progress)
    names = Names(graph)
    for layer in layers:
        put_bias(names, layer, biases[layer.name] - shifts[layer.name])
    return shifts


def _bias(layer: Layer) -> Float64Array:
    bias = bias_of(layer)
    return np.zeros(layer.channels[1]) if bias is None else bias


def _shifts(
    reference: Unit,
    twin: Unit,
    biases: Mapping[str, Float64Array],
    split: Split,
    progress: Progress,
) -> dict[str, Float64Array]:
    """How far each layer's mean output moves, once the layers before it are corrected."""
    import onnx

    from rtc.calibration.means import channel_means

    model = onnx.load_model_from_string(reference.onnx.proto)
    outputs = {node.name: node.output[0] for node in model.graph.node if node.name in biases}
    wanted = channel_means(reference.onnx.proto, list(outputs.values()), split)
    model = onnx.load_model_from_string(twin.onnx.proto)
    nodes = {node.name: node for node in model.graph.node}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    shifts = {}
    for number, (name, bias) in enumerate(biases.items()):
        tensor, stored = nodes[name].output[0], nodes[name].input[2]
        seen = channel_means(model.SerializeToString(), [tensor], split)
        shifts[name] = seen[tensor] - wanted[outputs[name]]
        values = (bias - shifts[name]).astype(np.float32)
        constants[stored].CopyFrom(onnx.numpy_helper.from_array(values, stored))
        progress(number + 1, len(biases), name)
    return shifts
