"""Models that quantise activations to ranges which they take when they run, of the whole batch.

What such a model computes beside that shows when the ranges are fixed:

    DynamicQuantizeLinear(x)             →  QuantizeLinear(x, scale, zero)
    QuantizeLinear(x, f(x), g(x))        →  QuantizeLinear(x, scale, zero)
    DynamicQuantizeMatMul(x, w, …)       →  its parts (rtc.compiler.core.exact_products), and so on
    DynamicQuantizeLSTM(x, w, r, …)      →  LSTM(x, (w - z_w) · s_w, (r - z_r) · s_r, …)

A quantised LSTM takes new ranges in every step and has no output for them; a float one has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rtc.calibration.oracle import Oracle, with_outputs
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.exact_products import write_out
from rtc.compiler.core.function_calls import Calls
from rtc.compiler.core.operators import op_of
from rtc.compiler.core.unit import OnnxModel, Unit
from rtc.compiler.frontend.source import to_bytes

if TYPE_CHECKING:
    import onnx

_DYNAMIC = "DynamicQuantizeLinear"
_LSTM = "com.microsoft.DynamicQuantizeLSTM"
_LSTM_INPUTS = ("x", "w", "r", "b", "lengths", "h", "c", "p", "ws", "wz", "rs", "rz")
_LSTM_READS = ("x", "w_float", "r_float", "b", "lengths", "h", "c", "p")


def with_fixed_ranges(unit: Unit, samples: Array) -> Unit | None:
    """The model with the scales and zero points that it finds on these samples as constants.

    None where it takes no ranges of what it is given.
    """
    model, floats = _in_parts(unit.onnx.proto)
    names = list(_taken(model.graph))
    if not names and not floats:
        return None
    if names:
        with Oracle(with_outputs(to_bytes(model), names), names) as oracle:
            seen = {name: value for name, value in oracle.run(samples).items() if value.size == 1}
        _fix(model.graph, seen)
    return Unit(OnnxModel(to_bytes(model)), unit.signature)


def _in_parts(proto: bytes) -> tuple[onnx.ModelProto, bool]:
    """The model written out, and whether an LSTM in it was made float."""
    import onnx

    model = onnx.load_model_from_string(proto)
    quantised = [node for node in model.graph.node if op_of(node) == _LSTM]
    if quantised:
        calls = Calls(model, {})
        for node in quantised:
            _float_lstm(calls, node)
        proto = calls.finish()
    model = onnx.load_model_from_string(write_out(proto))
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    del model.graph.value_info[:]
    return model, bool(quantised)


def _float_lstm(calls: Calls, node: onnx.NodeProto) -> None:
    """Weights of a quantised LSTM are (directions, inputs, 4 · hidden), of a float one turned."""
    import onnx

    kind = onnx.AttributeProto.AttributeType.Name
    operands = {n: name for n, name in zip(_LSTM_INPUTS, node.input, strict=False) if name}
    names = sorted(attribute.name for attribute in node.attribute)
    given = ", ".join(
        f"{attribute.name}: {kind(attribute.type).lower()} = @{attribute.name}"
        for attribute in node.attribute
    )
    weights = "\n".join(
        f"""{w}_wide = Cast <to = 1> ({w})
        {w}z_wide = Cast <to = 1> ({w}z)
        {w}_zero = Reshape ({w}z_wide, rows)
        {w}_scale = Reshape ({w}s, rows)
        {w}_zeroed = Sub ({w}_wide, {w}_zero)
        {w}_scaled = Mul ({w}_zeroed, {w}_scale)
        {w}_float = Transpose <perm = [0, 2, 1]> ({w}_scaled)"""
        for w in "wr"
    )
    read = ", ".join(n if n.removesuffix("_float") in operands else '""' for n in _LSTM_READS)
    outputs = ("y", "y_h", "y_c")[: len(node.output)]
    body = f"""rows = Constant <value = int64[3] {{0, 1, -1}}> ()
        {weights}
        {", ".join(outputs)} = LSTM <{given}> ({read})
    """
    variant = "_".join(["FloatLSTM", *operands, str(len(outputs)), *names])
    calls.call(node, variant, operands, body, attributes=names, outputs=outputs)


def _taken(graph: onnx.GraphProto) -> Iterator[str]:
    """The scales and zero points that depend on what the model is given."""
    constant = {tensor.name for tensor in graph.initializer}
    varying = {value.name for value in graph.input} - constant
    names: dict[str, None] = {}
    for node in graph.node:
        if varying.isdisjoint(node.input) and not any(a.HasField("g") for a in node.attribute):
            continue
        varying.update(node.output)
        if op_of(node) == _DYNAMIC:
            names |= dict.fromkeys(node.output[1:3])
        elif op_of(node) == "QuantizeLinear":
            names |= dict.fromkeys(name for name in node.input[1:3] if name in varying)
    yield from names


def _fix(graph: onnx.GraphProto, values: dict[str, Array]) -> None:
    """Constants in the place of these tensors; what made them makes others that nothing reads."""
    import onnx

    for node in graph.node:
        if op_of(node) == _DYNAMIC:
            node.op_type = "QuantizeLinear"
            node.input.extend(node.output[1:3])
            del node.output[1:]
        for index, name in enumerate(node.output):
            if name in values:
                node.output[index] = f"{name}/as_taken"
    graph.initializer.extend(onnx.numpy_helper.from_array(v, n) for n, v in values.items())
