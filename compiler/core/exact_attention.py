"""Quantised attention and recurrence as what they stand for, exact on every CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtc.compiler.core.function_calls import (
    Calls,
    handed_on,
    input_at,
    present_options,
    variant_of,
)

if TYPE_CHECKING:
    import onnx

_INT8 = 3  # onnx.TensorProto's number
_ATTENTION = {
    "do_rotary": "int",
    "mask_filter_value": "float",
    "num_heads": "int",
    "past_present_share_buffer": "int",
    "unidirectional": "int",
}
_LSTM = {
    "activation_alpha": "floats",
    "activation_beta": "floats",
    "activations": "strings",
    "clip": "float",
    "direction": "string",
    "hidden_size": "int",
    "input_forget": "int",
}


def quantised_attention(calls: Calls, node: onnx.NodeProto) -> None:
    """Write QAttention as the attention of what its operands stand for."""
    zero = calls.constant(0)
    names = ("a", "b", "bias", "as", "bs")
    operands = dict(zip(names, node.input, strict=False))
    operands |= {name: input_at(node, index) or zero for name, index in (("az", 6), ("bz", 7))}
    mask, past = input_at(node, 5), input_at(node, 8)
    operands |= {name: each for name, each in (("mask", mask), ("past", past)) if each}
    present = present_options(node, _ATTENTION)
    attributes = handed_on(_ATTENTION, present)
    outputs = ("y", "present")[: len(node.output)]
    lines = [
        line
        for name in "ab"
        for line in (
            f"{name}_wide = Cast <to = 1> ({name})",
            f"{name}z_wide = Cast <to = 1> ({name}z)",
            f"{name}_zeroed = Sub ({name}_wide, {name}z_wide)",
            f"{name}_float = Mul ({name}_zeroed, {name}s)",
        )
    ]
    read = ["a_float", "b_float", "bias", "mask" if mask else '""', "past" if past else '""']
    call = f"{', '.join(outputs)} = com.microsoft.Attention {attributes} ({', '.join(read)})\n"
    variant = variant_of("QAttention", bool(mask), bool(past), len(outputs), *present)
    body = "\n".join([*lines, call])
    calls.call(node, variant, operands, body, attributes=present, outputs=outputs)


def quantised_lstm(calls: Calls, node: onnx.NodeProto) -> None:
    """Give a DynamicQuantizeLSTM of int8 weights uint8 ones, whose kernels add in 32 bits."""
    names = ("x", "w0", "r0", "b", "lengths", "h", "c", "peepholes", "ws", "wz0", "rs", "rz0")
    weights = calls.types.get(node.input[1])
    if weights is None or weights.kind != _INT8:
        return  # uint8: its kernels add in 32 bits
    operands = {name: each for name, each in zip(names, node.input, strict=False) if each}
    shifted = [
        line
        for name in ("w", "wz", "r", "rz")
        for line in (
            f"{name}_wide = Cast <to = 6> ({name}0)",
            f"{name}_shifted = Add ({name}_wide, half)",
            f"{name} = Cast <to = 2> ({name}_shifted)",
        )
    ]
    present = present_options(node, _LSTM)
    read = ", ".join(
        name.removesuffix("0") if name in operands else '""'  # an input that is not given
        for name in names
    )
    outputs = ("y", "y_h", "y_c")[: len(node.output)]
    name = f"com.microsoft.{node.op_type} {handed_on(_LSTM, present)}"
    call = f"{', '.join(outputs)} = {name} ({read})\n"
    body = "\n".join(["half = Constant <value = int32 {128}> ()", *shifted, call])
    variant = variant_of("DynamicQuantizeLSTM", *operands, len(outputs), *present)
    calls.call(node, variant, operands, body, attributes=present, outputs=outputs)
