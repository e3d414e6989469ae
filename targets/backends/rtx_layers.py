"""What TensorRT-RTX built, read from the layer list that it logs.

Under detailed profiling verbosity one message of the builder starts with `Layers:` and holds, for
each layer of the plan, in execution order (here broken into lines):

    Name: node_conv2d_myl0_2, LayerType: correlation,
    Inputs: [ { Name: …, Dimensions: [-1,4,28,28], …, Datatype: Int8, Format: (NHWC) … }],
    Constants: [ { … }], Outputs: [ { … }], TacticName: …, StreamId: 0,
    Metadata: [ONNX Layer: node_conv2d]␟[ONNX Layer: node_relu]

An axis that holds the batch is -1. `correlation` is a convolution, `gemm` and `runtime_fusion` are
matrix products; `kgen` is a kernel that the builder generates for what lies between them. It is
listed with the convolution whose rescaling, bias or padding it does.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from rtc.compiler.core.operators import NOT_COMPUTING, op_of
from rtc.compiler.core.precision import Precision
from rtc.compiler.core.target import BuiltLayer
from rtc.compiler.core.tensors import Shape
from rtc.targets.backends.onnx_sizes import Sizes, elements_per_sample

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_BETWEEN = "kgen"

_LAYER = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>[^,\n]*), Inputs: \[(?P<inputs>.*?)\], "
    r"Constants: \[(?P<constants>.*?)\], Outputs: \[(?P<outputs>.*?)\], TacticName: .*?"
    r"Metadata: (?P<nodes>.*?)"
    r"(?=\nName: [^\n]*, LayerType: [^,\n]*, Inputs: \[|\n\nI/O Tensors:|\Z)",
    re.DOTALL | re.MULTILINE,
)
_TENSOR = re.compile(
    r"\{ Name: (.*?), Dimensions: \[((?:-?\d+,?)*)\], .*?Datatype: (\w+), Format: (.*?) ?\}"
    r"(?=, \{|$)",
    re.DOTALL,
)
_NODE = re.compile(r"^\[ONNX Layer: (.*)\]\w*$", re.DOTALL)  # "…]__gemm_from_conv1x1"

_BYTES = {
    "Bool": 1, "Int8": 1, "UInt8": 1, "FP8": 1, "Half": 2, "BFloat16": 2, "Float": 4, "Int32": 4,
    "Int64": 8,
}  # fmt: skip
_FLOATS = {"Float": Precision.FP32, "Half": Precision.HALF, "BFloat16": Precision.HALF}
_ONNX_FLOATS = {1: Precision.FP32, 10: Precision.HALF, 16: Precision.HALF}  # TensorProto.DataType


@dataclass(frozen=True)
class PlanTensor:
    """A tensor as one layer sees it; other layers may see it in another shape."""

    name: str
    dims: Shape
    datatype: str
    format: str


@dataclass(frozen=True)
class PlanLayer:
    """A layer of the plan; `nodes` are the ONNX nodes that the builder lists with it."""

    name: str
    kind: str
    nodes: tuple[str, ...]
    inputs: tuple[PlanTensor, ...]
    constants: tuple[PlanTensor, ...]
    outputs: tuple[PlanTensor, ...]


def parse(message: str) -> tuple[PlanLayer, ...]:
    """The layers of a message that starts with `Layers:`; what is not such a layer is skipped."""
    return tuple(
        PlanLayer(
            name=match["name"],
            kind=match["kind"],
            nodes=_nodes(match["nodes"]),
            inputs=_tensors(match["inputs"]),
            constants=_tensors(match["constants"]),
            outputs=_tensors(match["outputs"]),
        )
        for match in _LAYER.finditer(message)
    )


def _tensors(text: str) -> tuple[PlanTensor, ...]:
    return tuple(
        PlanTensor(name, tuple(int(dim) for dim in dims.split(",") if dim), datatype, layout)
        for name, dims, datatype, layout in _TENSOR.findall(text)
    )


def _nodes(text: str) -> tuple[str, ...]:
    parts = (_NODE.match(part) for part in text.rstrip("\n").split("\x1f"))
    return tuple(dict.fromkeys(part[1] for part in parts if part))


def built_layers(
    plan: Sequence[PlanLayer], model: ModelProto, sizes: Sizes, batch: int | None
) -> tuple[BuiltLayer, ...]:
    """The plan's layers with their ONNX nodes, what they compute in, and what they cost.

    Args:
        plan: from `parse`.
        model: the graph that was built.
        sizes: of that graph.
        batch: the engine's only batch, or None where it takes several.
    """
    nodes = {node.name or f"node_of_{node.output[0]}": node for node in model.graph.node}
    plan = _each_node_once(plan, nodes)
    elements = _elements(plan, nodes, sizes)
    counted: set[str] = set()
    layers = []
    for layer in plan:
        mine = [nodes[name] for name in layer.nodes]
        new = [nodes[name] for name in layer.nodes if name not in counted]
        counted.update(layer.nodes)
        per_sample, fixed = _traffic(layer, elements, batch)
        precision, others = _precision(layer, mine, sizes)
        layers.append(
            BuiltLayer(
                name=layer.name,
                kind=layer.kind,
                onnx_nodes=tuple(node.name or node.output[0] for node in mine),
                precision=precision,
                precision_of=others,
                inputs=tuple((t.name, t.datatype, t.format) for t in layer.inputs),
                outputs=tuple((t.name, t.datatype, t.format) for t in layer.outputs),
                bytes_per_sample=per_sample,
                bytes_fixed=fixed,
                flops_per_sample=_sum(sizes.flops(node) for node in new),
            )
        )
    return tuple(layers)


def _each_node_once(
    plan: Sequence[PlanLayer], known: Mapping[str, NodeProto]
) -> tuple[PlanLayer, ...]:
    """The plan without unknown nodes, and without those that a generated kernel only serves."""
    elsewhere = {name for layer in plan if layer.kind != _BETWEEN for name in layer.nodes}

    def owned(layer: PlanLayer) -> tuple[str, ...]:
        served = elsewhere if layer.kind == _BETWEEN else frozenset()
        return tuple(name for name in layer.nodes if name in known and name not in served)

    return tuple(replace(layer, nodes=owned(layer)) for layer in plan)


def _precision(
    layer: PlanLayer, nodes: Sequence[NodeProto], sizes: Sizes
) -> tuple[Precision | None, dict[str, Precision]]:
    """What a layer computes in, and what single nodes do where that is not all alike.

    INT8 is a kernel that takes INT8 values with INT8 weights, or nothing but INT8 values. Any other
    kernel of the library computes in its inputs' type. A generated one casts and quantises on its
    way, as does one whose inputs differ, so its tensors do not tell; but the network is strongly
    typed, so the ONNX graph does.
    """
    computing = [node for node in nodes if op_of(node) not in NOT_COMPUTING]
    if not computing:
        return None, {}
    inputs = {tensor.datatype for tensor in layer.inputs}
    constants = {tensor.datatype for tensor in layer.constants}
    generated = layer.kind == _BETWEEN
    if inputs == {"Int8"} and not (generated and constants):
        return Precision.INT8, {}
    if not generated and "Int8" in inputs & constants:
        return Precision.INT8, {}
    floats = {_FLOATS[datatype] for datatype in inputs if datatype in _FLOATS}
    types: dict[str, Precision] = {}
    if generated or len(floats) != 1:
        types = {
            node.name or node.output[0]: _ONNX_FLOATS[kind]
            for node in computing
            if (kind := sizes.types.get(node.output[0], 0)) in _ONNX_FLOATS
        }
        floats = set(types.values()) or floats
    widest = min(floats, key=list(Precision).index, default=None)
    return widest, {name: kind for name, kind in types.items() if kind is not widest}


def _elements(
    plan: Sequence[PlanLayer], nodes: Mapping[str, NodeProto], sizes: Sizes
) -> dict[str, int]:
    """Elements per sample of each tensor that holds the batch, by its name in the plan.

    What one layer's view of a tensor leaves open, another's may settle: (-1, 768) behind one
    layer is (-1, 197, 768) before the next.
    """
    views: dict[str, set[Shape]] = defaultdict(set)
    shapes: dict[str, set[Shape]] = defaultdict(set)
    for layer in plan:
        names = {t for node in layer.nodes for t in (*nodes[node].input, *nodes[node].output)}
        around = {sizes.shapes[name] for name in names if name in sizes.shapes}
        for tensor in (*layer.inputs, *layer.outputs):
            views[tensor.name].add(tensor.dims)
            shapes[tensor.name] |= around
            if tensor.name in sizes.shapes:  # an input or an output of the network
                shapes[tensor.name].add(sizes.shapes[tensor.name])
    elements: dict[str, int] = {}
    for name, seen in views.items():
        counted = (elements_per_sample(view, shapes[name]) for view in seen)
        counts = {count for count in counted if count is not None}
        if len(counts) == 1:
            elements[name] = counts.pop()
    return elements


def _traffic(
    layer: PlanLayer, elements: Mapping[str, int], batch: int | None
) -> tuple[int | None, int | None]:
    """Bytes that a layer reads and writes: for each sample, and at any batch."""
    per_sample: list[int | None] = []
    fixed: list[int | None] = []
    for tensor in (*layer.inputs, *layer.outputs):
        width = _BYTES.get(tensor.datatype)
        count = prod(tensor.dims)
        if width is None:
            per_sample.append(None)
        elif -1 in tensor.dims:
            known = elements.get(tensor.name)
            per_sample.append(None if known is None else known * width)
        elif batch is not None and count % batch == 0:
            per_sample.append(count // batch * width)
        else:
            fixed.append(count * width)
    for tensor in layer.constants:
        width = _BYTES.get(tensor.datatype)
        fixed.append(None if width is None else prod(tensor.dims) * width)
    return _sum(per_sample), _sum(fixed)


def _sum(values: Iterable[int | None]) -> int | None:
    """The sum, or None where a part of it is not known."""
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total
