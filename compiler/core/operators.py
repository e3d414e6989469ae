"""What more than one part must know of ONNX graphs by name."""

from __future__ import annotations

from typing import Any

ONNX = frozenset({"", "ai.onnx"})
"""The domains of ONNX's own operators."""

_ALIKE = frozenset({"DequantizeLinear", "QuantizeLinear"})
"""ONNX Runtime's own of these are ONNX's, for more types of integers."""


def is_onnx(node: Any) -> bool:
    """Whether a node (`onnx.NodeProto`, or graphsurgeon's) has an operator of ONNX itself."""
    return (node.domain or "") in ONNX


def op_of(node: Any) -> str:
    """The operator of a node (`onnx.NodeProto`, or graphsurgeon's), to be matched by.

    Only ONNX's own go by their bare name: "Conv", but "com.microsoft.nchwc.Conv" and "mine.Conv".
    """
    kind: str = getattr(node, "op_type", None) or node.op
    alike = node.domain == "com.microsoft" and kind in _ALIKE
    return kind if is_onnx(node) or alike else f"{node.domain}.{kind}"


WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators that multiply by weights: what INT8 is offered to, and where most work is."""

# fmt: off
NOT_COMPUTING = frozenset({
    "Cast", "Concat", "Constant", "ConstantOfShape", "DequantizeLinear", "Dropout", "Expand",
    "Flatten", "Gather", "Identity", "Pad", "QuantizeLinear", "Reshape", "Shape", "Slice", "Split",
    "Squeeze", "Tile", "Transpose", "Unsqueeze",
})
# fmt: on
"""ONNX operators that move, copy or convert values and compute none."""

CARRYING = NOT_COMPUTING | {
    *("AveragePool", "Clip", "DepthToSpace", "GlobalAveragePool", "LeakyRelu", "MaxPool", "PRelu"),
    *("ReduceMax", "ReduceMean", "ReduceMin", "Relu", "Resize", "SpaceToDepth", "Upsample"),
}
SCALING = frozenset({"Add", "Div", "Mul", "Sub"})
"""Operators behind which a runtime may still keep integers; `SCALING` ones with a constant too."""

HALF_KEY = "rtc.half"
"""Metadata key of a model whose float layers a runtime is to run in "fp16" or "bf16"."""
