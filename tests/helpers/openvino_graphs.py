"""Models that ask for a half type, and what their layers run in."""

from __future__ import annotations

import pytest
from onnx import ModelProto, helper

from rtc.compiler.core.operators import HALF_KEY
from rtc.targets.backends.openvino import OpenVino
from rtc.targets.loader import profile

needs_half = pytest.mark.skipif(
    OpenVino().scheme(profile("cpu")).half is None, reason="this CPU has no native half type"
)


def with_half(model: ModelProto, half: str) -> bytes:
    marked = ModelProto()
    marked.CopyFrom(model)
    helper.set_model_props(marked, {HALF_KEY: half})
    return marked.SerializeToString()


def precisions(layers):
    return {node: layer.precision for layer in layers for node in layer.onnx_nodes}
