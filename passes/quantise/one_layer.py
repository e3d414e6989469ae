"""A model's alternatives: one layer in another precision, written as the passes write it.

Each is what `insert-qdq` or `cast-precision` makes of a plan that names that layer alone, so that
what is measured of it is what a build will get. The rest of the weights does not matter to those
passes: the large ones become graph inputs, and an alternative is as small as its own layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from rtc.calibration.sensitivity import Alternative
from rtc.calibration.sensitivity.shapes import is_large
from rtc.compiler.core.passes import PassContext
from rtc.compiler.core.precision import LayerDecision, Precision, PrecisionPlan, Variant
from rtc.compiler.core.target import QuantScheme
from rtc.compiler.core.unit import OnnxModel, Unit
from rtc.passes.quantise.cast_precision import CastPrecision
from rtc.passes.quantise.half import half_dtype, half_obstacle
from rtc.passes.quantise.insert_qdq import InsertQdq
from rtc.passes.quantise.precision_policy import computing
from rtc.passes.support.layers import Layer, weighted_layers
from rtc.passes.support.onnx_graph import Names, is_constant, read, write

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs


def alternatives(unit: Unit, ctx: PassContext) -> tuple[bytes, tuple[Alternative, ...]]:
    """The float model as its alternatives read it, and one for each layer and precision on offer.

    INT8 is on offer where the target's scheme has a kernel for it and nothing in the graph forbids
    it; the half type, where the scheme has one that the layer's constants fit in. A runtime that
    takes one half type for all layers at once is asked about each alone all the same: the layer
    then reads and writes rounded values.
    """
    import onnx

    graph = read(unit).cleanup()
    scheme = ctx.where().scheme
    decided = frozenset(computing(graph))
    offers = [
        (layer.name, precision)
        for layer in weighted_layers(graph)
        if layer.name in decided
        for precision in _on_offer(graph, layer, scheme)
    ]
    unit = write(graph, unit)
    model = onnx.load_model_from_string(unit.onnx.proto)
    made = tuple(
        Alternative(layer, precision, _changed(skeleton(model, unit, layer), layer, precision, ctx))
        for layer, precision in offers
    )
    return unit.onnx.proto, made


def _on_offer(graph: gs.Graph, layer: Layer, scheme: QuantScheme) -> Iterator[Precision]:
    if layer.op in scheme.int8_ops and not layer.obstacle:
        yield Precision.INT8
    if scheme.half is None:
        return
    if not scheme.half_in_graph or not half_obstacle(layer.node, graph.opset, scheme.half):
        yield Precision.HALF


def _changed(unit: Unit, layer: str, precision: Precision, ctx: PassContext) -> bytes:
    target = ctx.where()
    if precision is Precision.HALF and not target.scheme.half_in_graph:
        return _rounded(unit, layer, target.scheme.half or "")
    plan = PrecisionPlan(
        model=unit.digest,
        target=target.profile.name,
        variant=Variant.MIX,
        default=Precision.FP32,
        layers={layer: LayerDecision(precision, "it alone")},
    )
    step = InsertQdq() if precision is Precision.INT8 else CastPrecision()
    return step.apply(unit, replace(ctx, plan=plan)).unit.onnx.proto


def _rounded(unit: Unit, layer: str, half: str) -> bytes:
    """The layer's inputs, constants and output, rounded to the half type and back."""
    import numpy as np
    import onnx_graphsurgeon as gs
    from onnx.helper import np_dtype_to_tensor_dtype

    graph = read(unit)
    names, dtype = Names(graph), half_dtype(half)
    node = next(node for node in graph.nodes if node.name == layer)

    def pair(tensor: gs.Tensor, result: gs.Tensor) -> None:
        narrow = gs.Variable(names(f"{result.name}/{half}"), dtype, tensor.shape)
        for source, made in ((tensor, narrow), (narrow, result)):
            to = np_dtype_to_tensor_dtype(np.dtype(made.dtype))
            graph.nodes.append(
                gs.Node("Cast", names(f"{made.name}/cast"), {"to": to}, [source], [made])
            )

    for index, tensor in enumerate(node.inputs):
        name = names(f"{layer}/input/{index}")
        if is_constant(tensor):
            values = tensor.values.astype(dtype).astype(np.float32)
            node.inputs[index] = gs.Constant(name, values)
        elif tensor.name:
            rounded = gs.Variable(name, np.float32, tensor.shape)
            node.inputs[index] = rounded
            pair(tensor, rounded)
    result = node.outputs[0]
    unrounded = gs.Variable(names(f"{layer}/unrounded"), np.float32, result.shape)
    node.outputs[0] = unrounded
    pair(unrounded, result)
    return write(graph, unit).onnx.proto


def skeleton(model: onnx.ModelProto, unit: Unit, *layers: str) -> Unit:
    """The model with its large constants, but for some layers', as graph inputs."""
    import onnx

    own = {name for node in model.graph.node if node.name in layers for name in node.input}
    light = onnx.ModelProto()
    light.ir_version = model.ir_version
    light.opset_import.extend(model.opset_import)
    graph = light.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    for tensor in model.graph.initializer:
        if is_large(tensor) and tensor.name not in own:
            shape = list(tensor.dims)
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, shape)
            )
        else:
            graph.initializer.append(tensor)
    return Unit(OnnxModel(light.SerializeToString(deterministic=True)), unit.signature)
