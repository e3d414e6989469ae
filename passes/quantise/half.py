"""What can run in a half type: by operator, and by the size of its constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rtc.calibration.decibels import decibels
from rtc.compiler.core.arrays import Array
from rtc.passes.support.onnx_graph import dtype_of, is_constant

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

_ONNX_TYPE = {"fp16": "tensor(float16)", "bf16": "tensor(bfloat16)"}
LARGEST = {"fp16": 65504.0, "bf16": 255 * 2.0**120}
"""The largest finite number of each half type."""
_NORMAL = {"fp16": 2.0**-14, "bf16": 2.0**-126}  # the least with all its bits
_LEAST_DB = 20.0


def half_dtype(half: str) -> np.dtype[Any]:
    """Numpy's dtype of "fp16" or "bf16"."""
    import ml_dtypes

    return np.dtype(np.float16) if half == "fp16" else np.dtype(ml_dtypes.bfloat16)


def retyped(node: gs.Node, opset: int, half: str) -> tuple[list[int], list[int]] | None:
    """Indices of the inputs and outputs that change type together when a node goes half.

    None where they cannot: the operator's output type does not come from its inputs (Cast,
    ConstantOfShape, …), it does not take the half type, or what it computes are no float32 numbers
    (a product of sizes).
    """
    import onnx

    try:
        schema = onnx.defs.get_schema(node.op, opset, node.domain or "")
    except onnx.defs.SchemaError:
        return None
    variable = schema.outputs[0].type_str
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    if _ONNX_TYPE[half] not in allowed.get(variable, ()):
        return None
    inputs = _sharing(schema.inputs, variable, len(node.inputs))
    outputs = _sharing(schema.outputs, variable, len(node.outputs))
    together = [*(node.inputs[i] for i in inputs), *(node.outputs[i] for i in outputs)]
    floats = (np.dtype(np.float32), half_dtype(half))
    if any(tensor.name and dtype_of(tensor) not in floats for tensor in together):
        return None
    return (inputs, outputs) if inputs else None


def half_obstacle(node: gs.Node, opset: int, half: str) -> str:
    """Why a node must stay fp32; "" where it can go half."""
    places = retyped(node, opset, half)
    if places is None:
        return f"{node.op} has no {half} form"
    read = (node.inputs[index] for index in places[0])
    peak = max((peak_of(tensor.values) for tensor in read if is_constant(tensor)), default=0.0)
    return f"a constant of {peak:.3g} overflows {half}" if peak > LARGEST[half] else ""


def peak_of(values: Array) -> float:
    """The largest magnitude of finite numbers: an infinity stays what it is in a half type."""
    return float(
        np.abs(values, where=np.isfinite(values), out=np.zeros_like(values)).max(initial=0)
    )


def is_lost(values: Array, half: str) -> bool:
    """Whether finite numbers become infinite in a half type, or less than 20 dB is left of them."""
    peak = peak_of(values)
    if peak > LARGEST[half]:
        return True
    if peak == 0.0 or peak >= _NORMAL[half]:
        return False
    finite = values[np.isfinite(values)].astype(np.float64)
    off = finite.astype(half_dtype(half)).astype(np.float64) - finite
    return decibels(float(np.square(finite).sum()), float(np.square(off).sum())) < _LEAST_DB


def _sharing(
    formal: Sequence[onnx.defs.OpSchema.FormalParameter], variable: str, count: int
) -> list[int]:
    """Indices below `count` whose type is `variable`; the last formal parameter may repeat."""
    last = len(formal) - 1
    return [i for i in range(count) if last >= 0 and formal[min(i, last)].type_str == variable]
