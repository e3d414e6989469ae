"""A model of one operator, as ONNX text, and what it computes before and after a rewrite."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from rtc.compiler.core.arrays import Array
from rtc.compiler.core.parts import Form, write_parts
from rtc.compiler.core.running import unoptimised

HEAD = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>\n'


def model_of(text: str, constants: Mapping[str, Array]) -> onnx.ModelProto:
    """A graph `g (…) => (…) { … }` with those of the constants that it reads."""
    model = onnx.parser.parse_model(HEAD + text)
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name)
        for name, value in constants.items()
        if name in read
    )
    return model


def answers(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """What an unoptimised ONNX Runtime makes of it."""
    found: list[Array] = unoptimised(model.SerializeToString()).run(None, dict(feeds))
    return found


def written(model: onnx.ModelProto, forms: Mapping[str, Form]) -> onnx.ModelProto:
    """A copy with the parts of its operators; every one that `forms` knows must have them."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    assert not write_parts(made, forms).left
    return made


def operators(model: onnx.ModelProto) -> list[str]:
    return [f"{node.domain}.{node.op_type}".lstrip(".") for node in model.graph.node]
