"""Q/DQ pairs written into a graph, for a plan in a target's scheme.

    Layer(x, w, b)  →  Layer(DQ(Q(x)), DQ(w_int8), b)

Where pairs go is decided in `placement`; scales and zero points in rtc.calibration.quantise.
Weights are stored as int8, per output channel where the scheme says so. Biases stay float, or are
stored as int32 with scale input × weight (`QuantScheme.bias`). Zero points are always written:
ONNX Runtime fuses no Gemm without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rtc.calibration.quantise import (
    Parameters,
    activation_parameters,
    as_unsigned,
    least_weight_scale,
    quantise_weight,
    refuse_old_opset,
    weight_parameters,
    with_one_scale,
)
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.errors import InternalError
from rtc.compiler.core.operators import op_of
from rtc.compiler.core.passes import PassContext, Statistics
from rtc.compiler.core.precision import Precision, PrecisionPlan
from rtc.compiler.core.target import QuantScheme
from rtc.compiler.core.unit import Unit
from rtc.passes.quantise.placement import Spot, placement
from rtc.passes.support.layers import Layer, activations, producer, weighted_layers
from rtc.passes.support.onnx_graph import Names, is_output, read, value, write

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def int8_layers(graph: gs.Graph, plan: PrecisionPlan) -> list[Layer]:
    """The layers whose weights the plan stores as INT8, in graph order."""
    return [
        layer
        for layer in weighted_layers(graph)
        if not layer.obstacle and plan.precision_of(layer.name) is Precision.INT8
    ]


def write_qdq(
    graph: gs.Graph,
    layers: Sequence[Layer],
    plan: PrecisionPlan,
    statistics: Statistics,
    scheme: QuantScheme,
) -> int:
    """Quantise `layers` and what the plan wants around them; how many tensors that were.

    Raises:
        ModelError: the model's opset is older than Q/DQ with an axis.
    """
    refuse_old_opset(graph.opset)
    spots = placement(graph, plan, scheme)
    multiplied = {id(layer.node) for layer in layers}
    parameters = {s.tensor.name: _parameters(s, statistics, scheme, multiplied) for s in spots}
    writer = _Writer(graph, scheme)
    for layer in layers:
        writer.quantise_weights(layer, parameters[layer.node.inputs[0].name].scale)
    for spot in spots:
        writer.quantise_tensor(spot, parameters[spot.tensor.name])
    return len(spots)


def quantised_twin(unit: Unit, ctx: PassContext) -> Unit:
    """What a unit becomes in INT8, for a repair to look at.

    Biases stay float, so that they can be changed in place: rounding them to int32, in steps of
    input scale × weight scale, moves an output by half such a step at most.
    """
    plan, graph = ctx.planned(), read(unit)
    layers = int8_layers(graph, plan)
    if not layers:
        return unit
    scheme = replace(ctx.where().scheme, bias="float")
    write_qdq(graph, layers, plan, ctx.statistics, scheme)
    return write(graph, unit)


def names_in(quantised: gs.Graph, model: gs.Graph, tensors: Sequence[str]) -> dict[str, str]:
    """What tensors are called in the quantised graph: an output's name went to its integers."""
    here: dict[str, gs.Tensor] = model.tensors()
    nodes = {node.name: node for node in quantised.nodes}
    names = {}
    for name in tensors:
        maker = producer(here[name])
        assert maker is not None, "a graph's input keeps its range"
        index = next(i for i, tensor in enumerate(maker.outputs) if tensor is here[name])
        names[name] = nodes[maker.name].outputs[index].name
    return names


def stored_weight_parameters(layer: Layer, input_scale: Array, scheme: QuantScheme) -> Parameters:
    """The scales that a layer's weights are stored with."""
    weight, bias = value(layer.node, 1), value(layer.node, 2)
    assert weight is not None, "a layer without constant weights has an obstacle"
    if bias is not None:  # a Gemm's may be a scalar or (1, N)
        bias = np.broadcast_to(bias.reshape(-1), (layer.channels[1],))
    return weight_parameters(
        weight,
        layer.axis,
        per_channel=scheme.per_channel,
        at_least=least_weight_scale(bias, input_scale),
        how=scheme.weight_scales,
        paired=layer.paired(scheme),
    )


def _parameters(
    spot: Spot, statistics: Statistics, scheme: QuantScheme, multiplied: AbstractSet[int]
) -> Parameters:
    """The scale and the zero point of a spot; `multiplied`: ids of the INT8 layers' nodes."""
    missing = sorted(spot.sharing - statistics.keys())
    if missing:
        raise InternalError(f"the range of tensor {missing[0]} was never observed")
    sharing = [statistics[name] for name in spot.sharing]
    seen, kind = with_one_scale(statistics[spot.range_of], sharing, scheme.activation)
    parameters = activation_parameters(seen, kind)
    maker = producer(spot.tensor)
    readers = spot.tensor.outputs if spot.readers is None else spot.readers
    shifted = (
        maker is not None
        and op_of(maker) in scheme.unsigned_after
        and any(id(reader) in multiplied for reader in readers)
    )
    return as_unsigned(parameters) if shifted else parameters


class _Writer:
    """Adds Q and DQ to a graph."""

    def __init__(self, graph: gs.Graph, scheme: QuantScheme) -> None:
        self.graph, self.scheme, self.names = graph, scheme, Names(graph)

    def quantise_tensor(self, spot: Spot, parameters: Parameters) -> None:
        """Put Q and DQ behind a tensor, for the readers that the spot names."""
        tensor, name = spot.tensor, spot.tensor.name
        readers = list(tensor.outputs) if spot.readers is None else spot.readers
        restored = self._variable(f"{name}/dq", np.float32, tensor.shape)
        if spot.readers is None and is_output(self.graph, tensor):
            tensor.name, restored.name = self.names(f"{name}/float"), name
            outputs = [restored if each is tensor else each for each in self.graph.outputs]
            self.graph.outputs = outputs
        for reader in readers:
            taken = {id(activation) for activation in activations(reader)} & {id(tensor)}
            reader.inputs = [
                restored if id(tensor) in taken else tensor for tensor in reader.inputs
            ]
        scale = self._constant(f"{name}/scale", parameters.scale)
        zero = self._constant(f"{name}/zero_point", parameters.zero_point)
        integers = self._variable(f"{name}/q", parameters.zero_point.dtype, tensor.shape)
        self._node("QuantizeLinear", f"{name}/quantize", [tensor, scale, zero], integers)
        self._node("DequantizeLinear", f"{name}/dequantize", [integers, scale, zero], restored)

    def quantise_weights(self, layer: Layer, input_scale: Array) -> None:
        """Store a layer's weights (and its bias, where the scheme wants that) as integers."""
        weight, bias = value(layer.node, 1), value(layer.node, 2)
        assert weight is not None, "a layer without constant weights has an obstacle"
        parameters = stored_weight_parameters(layer, input_scale, self.scheme)
        stored = quantise_weight(weight, parameters, layer.axis)
        axis = layer.axis if self.scheme.per_channel else None
        layer.node.inputs[1] = self._restored(f"{layer.name}/weight", stored, parameters, axis)
        if bias is not None and self.scheme.bias == "int32":
            scale = np.asarray(parameters.scale * input_scale, np.float32)
            bias = np.broadcast_to(bias.reshape(-1), (layer.channels[1],))
            integers = np.rint(bias / scale).astype(np.int32)
            linear = Parameters(scale, np.zeros(scale.shape, np.int32))
            axis = None if axis is None else 0
            layer.node.inputs[2] = self._restored(f"{layer.name}/bias", integers, linear, axis)

    def _restored(
        self, name: str, stored: Array, parameters: Parameters, axis: int | None
    ) -> gs.Variable:
        """A float tensor that a DequantizeLinear makes of stored integers."""
        restored = self._variable(f"{name}/dq", np.float32, stored.shape)
        inputs = [
            self._constant(f"{name}/q", stored),
            self._constant(f"{name}/scale", parameters.scale),
            self._constant(f"{name}/zero_point", parameters.zero_point),
        ]
        self._node("DequantizeLinear", f"{name}/dequantize", inputs, restored, axis)
        return restored

    def _variable(
        self, name: str, dtype: npt.DTypeLike, shape: Sequence[int | str | None] | None
    ) -> gs.Variable:
        import onnx_graphsurgeon as gs

        return gs.Variable(self.names(name), np.dtype(dtype), shape)

    def _constant(self, name: str, values: Array) -> gs.Constant:
        import onnx_graphsurgeon as gs

        return gs.Constant(self.names(name), values)

    def _node(
        self,
        op: str,
        name: str,
        inputs: Sequence[gs.Tensor],
        output: gs.Tensor,
        axis: int | None = None,
    ) -> None:
        import onnx_graphsurgeon as gs

        attributes = {} if axis is None else {"axis": axis}
        self.graph.nodes.append(gs.Node(op, self.names(name), attributes, inputs, [output]))
