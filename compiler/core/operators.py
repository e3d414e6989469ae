"""What more than one part must know of ONNX graphs by name."""

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
