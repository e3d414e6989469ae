"""Models that quantise activations to ranges which they take when they run, of the whole batch."""

from __future__ import annotations

from rtc.calibration.oracle import Oracle, with_outputs
from rtc.compiler.core.data import Array
from rtc.compiler.core.unit import OnnxModel, Unit
from rtc.compiler.source import to_bytes

_DYNAMIC = "DynamicQuantizeLinear"


def with_fixed_ranges(unit: Unit, samples: Array) -> Unit | None:
    """The model with the scales and zero points that it finds on these samples as constants.

    DynamicQuantizeLinear(x) → QuantizeLinear(x, scale, zero). None where it has no such node.
    """
    import onnx

    model = onnx.load_model_from_string(unit.onnx.proto)
    dynamic = [node for node in model.graph.node if node.op_type == _DYNAMIC]
    if not dynamic:
        return None
    names = [name for node in dynamic for name in node.output[1:3]]
    with Oracle(with_outputs(unit.onnx.proto, names), names) as oracle:
        seen = oracle.run(samples)
    for node in dynamic:
        node.op_type = "QuantizeLinear"
        node.input.extend(node.output[1:3])
        del node.output[1:]
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, n) for n, v in seen.items())
    return Unit(OnnxModel(to_bytes(model)), unit.signature)
