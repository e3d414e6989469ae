"""What more than one part must know of ONNX graphs by name."""

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators that multiply by weights: what INT8 is offered to, and where most work is."""

HALF_KEY = "rtc.half"
"""Metadata key of a model whose float layers a runtime is to run in "fp16" or "bf16"."""
