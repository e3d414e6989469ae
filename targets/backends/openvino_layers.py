"""What OpenVINO tells of the layers that it compiled, and the ONNX nodes in each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rtc.compiler.core.precision import Precision
from rtc.compiler.core.target import BuiltLayer
from rtc.targets.backends.onnx_graph import NodeIndex

_NOT_LAYERS = frozenset({"Const", "Input", "Output"})
# fmt: off
_MOVE = frozenset({
    "Broadcast", "Concatenation", "Convert", "Gather", "Pad", "Reorder", "Reshape", "ShapeOf",
    "Split", "StridedSlice", "Tile", "Transpose",
})
# fmt: on
"""Layers that move values and compute none; that of a product's weights goes by the product."""
_MULTIPLY = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul", "Subgraph"})
_COMPUTED = {  # the end of a kernel's name; a layer's runtimePrecision may be its weights' instead
    "i8": Precision.INT8,
    "u8": Precision.INT8,
    "bf16": Precision.HALF,
    "f16": Precision.HALF,
    "f32": Precision.FP32,
}


def built_layers(compiled: Any, index: NodeIndex) -> tuple[BuiltLayer, ...]:
    """The layers of a compiled model, in execution order."""
    nodes = compiled.get_runtime_model().get_ordered_ops()
    nodes = [node for node in nodes if _kind(node) not in _NOT_LAYERS]
    carried = [_named(node, index) for node in nodes]
    _add_products([_kind(node) for node in nodes], carried, index)
    pairs = zip(nodes, carried, strict=True)
    return tuple(_layer(node, mine, index) for node, mine in pairs)


def _kind(node: Any) -> str:
    return str(node.get_rt_info()["layerType"].value)


def _named(node: Any, index: NodeIndex) -> set[int]:
    """The ONNX nodes that a layer goes by."""
    labels = str(node.get_rt_info()["originalLayersNames"].value).split(",")
    return {place for label in labels if (place := index.find(label)) is not None}


def _add_products(kinds: Sequence[str], carried: Sequence[set[int]], index: NodeIndex) -> None:
    """Give layers the product that they compute and do not go by.

    What a product is multiplied by goes into its weights, and the layer then has the name of that
    Mul alone: a layer that multiplies computes the product that leads to what it goes by.
    """
    owners = {node: at for at, mine in enumerate(carried) for node in mine}
    for product in index.products:
        path = () if product in owners else index.way_on(product, owners)
        if not path:
            continue
        at = owners[path[-1]]
        if kinds[at] in _MULTIPLY and index.products.isdisjoint(carried[at]):
            carried[at].update((product, *path))


def _layer(node: Any, mine: set[int], index: NodeIndex) -> BuiltLayer:
    info, kind = node.get_rt_info(), _kind(node)
    computed = str(info["primitiveType"].value).rpartition("_")[2].lower()
    computes = kind not in _MOVE and index.computes(mine)
    return BuiltLayer(
        name=node.get_friendly_name(),
        kind=kind,
        onnx_nodes=index.names(mine),
        precision=_COMPUTED.get(computed) if computes else None,
        outputs=(
            (
                node.get_friendly_name(),
                str(info["outputPrecisions"].value),
                str(info["outputLayouts"].value),
            ),
        ),
    )
