"""`fold-batchnorm`: batch normalisation folded into the layer before it.

    BatchNormalization(L(x, w, b), γ, β, μ, σ²)  →  L(x, w·s, (b - μ)·s + β)    s = γ / √(σ² + ε)

for L = Conv, ConvTranspose and Gemm. Shared weights are copied, not changed. Computed in float64.
`details`: `folded` (count), `left` (reason by node).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rtc.compiler.core.arrays import Array, Float64Array
from rtc.compiler.core.operators import op_of
from rtc.compiler.core.passes import Exact, Pass, PassContext, PassResult
from rtc.compiler.core.unit import Level, Unit
from rtc.passes.support.layers import has_bias
from rtc.passes.support.onnx_graph import Names, bypass, is_output, read, value, write

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


_LAYERS = ("Conv", "ConvTranspose", "Gemm")


_NOTHING = "no batch normalisation left to fold (export-onnx folds what follows a layer)"


@dataclass(frozen=True)
class FoldBatchnorm(Pass):
    """Fold batch normalisation into convolutions and fully connected layers."""

    name: ClassVar[str] = "fold-batchnorm"
    takes: ClassVar[Level] = Level.ONNX
    gives: ClassVar[Level] = Level.ONNX

    @property
    def bound(self) -> Exact:
        """Weights are rounded once more to float32, so sums differ in their last digits."""
        return Exact(atol=1e-4, rtol=1e-3)

    def apply(self, unit: Unit, ctx: PassContext) -> PassResult:
        graph = read(unit)
        names = Names(graph)
        folded, left = 0, {}
        for node in [node for node in graph.nodes if op_of(node) == "BatchNormalization"]:
            reason = _check(graph, node) or _rewrite(names, node) or bypass(graph, node)
            if reason:
                left[node.name] = reason
            else:
                folded += 1
        details = {"folded": folded, "left": left}
        if not folded:
            return PassResult(
                unit,
                False,
                _NOTHING,
                details,
            )
        return PassResult(write(graph, unit), True, f"{folded} folded", details)


def _check(graph: gs.Graph, node: gs.Node) -> str:
    """Why a BatchNormalization cannot be folded; "" where it can."""
    if node.attrs.get("training_mode", 0):
        return "it runs in training mode"
    if any(tensor.outputs or is_output(graph, tensor) for tensor in node.outputs[1:]):
        return "its statistics are read"
    if any(value(node, index) is None for index in (1, 2, 3, 4)):
        return "its parameters are not constant"
    return _check_layer(graph, node.inputs[0])


def _check_layer(graph: gs.Graph, tensor: gs.Tensor) -> str:
    """Why batch normalisation of `tensor` cannot go into the layer that computes it."""
    layer = tensor.inputs[0] if tensor.inputs else None
    if layer is None or op_of(layer) not in _LAYERS:
        return f"it follows {op_of(layer) if layer else 'a graph input'}, not {', '.join(_LAYERS)}"
    if is_output(graph, tensor):
        return f"the output of {layer.name} is the model's too"
    if len(tensor.outputs) > 1:
        return f"the output of {layer.name} has {len(tensor.outputs)} readers"
    if value(layer, 1) is None or (has_bias(layer) and value(layer, 2) is None):
        return f"the weights of {layer.name} are not constant"
    if op_of(layer) == "Gemm" and _gemm_bias_rows(layer) != 1:
        return f"the bias of {layer.name} differs by sample"
    return ""


def _rewrite(names: Names, node: gs.Node) -> str:
    """Put scaled weights and a new bias into the layer before a node; why not, or ""."""
    import onnx_graphsurgeon as gs

    layer = node.inputs[0].inputs[0]
    gamma, beta, mean, variance = (_double(node, index) for index in (1, 2, 3, 4))
    old = _double(layer, 2).reshape(-1) if has_bias(layer) else np.zeros(1)
    with np.errstate(divide="ignore", invalid="ignore"):  # looked at below
        scale = gamma / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
        weight = _scaled(layer, scale)
        bias = (old * layer.attrs.get("beta", 1.0) - mean) * scale + beta
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        return "the folded weights are not finite"
    if op_of(layer) == "Gemm":
        layer.attrs["beta"] = 1.0
    kind = layer.inputs[1].dtype
    layer.inputs = [
        layer.inputs[0],
        gs.Constant(names(f"{layer.name}/weight"), weight.astype(kind)),
        gs.Constant(names(f"{layer.name}/bias"), bias.astype(kind)),
    ]
    return ""


def _scaled(layer: gs.Node, scale: Float64Array) -> Float64Array:
    """The weights, each output channel times its scale."""
    weight = _double(layer, 1)
    if op_of(layer) == "ConvTranspose":  # (in, out / groups, …): groups share no input channel
        groups = layer.attrs.get("group", 1)
        split = weight.reshape(groups, -1, *weight.shape[1:])
        factor = scale.reshape(groups, 1, -1, *(1,) * (weight.ndim - 2))
        return (split * factor).reshape(weight.shape)
    if op_of(layer) == "Gemm" and not layer.attrs.get("transB", 0):
        return weight * scale
    return weight * scale.reshape(-1, *(1,) * (weight.ndim - 1))


def _gemm_bias_rows(layer: gs.Node) -> int:
    bias = value(layer, 2)
    return 1 if bias is None or bias.ndim < 2 else int(bias.shape[0])


def _double(node: gs.Node, index: int) -> Array:
    values = value(node, index)
    assert values is not None, "checked before"
    return values.astype(np.float64)
