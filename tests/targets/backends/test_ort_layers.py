"""Against what ONNX Runtime really makes of a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from check_pass import parse

from rtc.compiler.core.precision import Precision
from rtc.targets.backends.ort_layers import built_layers

RNG = np.random.default_rng(0)
UNIT = parse(
    """g (float[N,3,8,8] x) => (float[N,5] y) {
      [conv] a = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, k) [act] b = Relu(a)
      [pool] p = GlobalAveragePool(b) [flat] f = Flatten(p)
      [fc] m = MatMul(f, w) [bias] y = Add(m, c)
    }""",
    opsets='"" : 17',
    k=RNG.standard_normal((8, 3, 3, 3)).astype(np.float32),
    w=RNG.standard_normal((8, 5)).astype(np.float32),
    c=RNG.standard_normal(5).astype(np.float32),
)


def optimised(proto: bytes, folder: Path) -> onnx.ModelProto:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimised.onnx")


def test_every_node_is_in_one_layer(tmp_path: Path) -> None:
    original = onnx.load_model_from_string(UNIT.onnx.proto)
    layers = built_layers(original, optimised(UNIT.onnx.proto, tmp_path))
    held = [name for layer in layers for name in layer.onnx_nodes]
    assert sorted(held) == sorted(node.name for node in original.graph.node)
    owner = {name: layer for layer in layers for name in layer.onnx_nodes}
    assert owner["conv"] is owner["act"]
    assert owner["fc"] is owner["bias"]
    assert owner["conv"].precision is owner["fc"].precision is Precision.FP32


def test_what_only_moves_values_has_no_precision(tmp_path: Path) -> None:
    unit = parse(
        "g (float[N,2,3] x) => (float[N,6] y) { [turn] t = Transpose<perm=[0,2,1]>(x)"
        " [flat] y = Flatten(t) }"
    )
    original = onnx.load_model_from_string(unit.onnx.proto)
    layers = built_layers(original, optimised(unit.onnx.proto, tmp_path))
    assert {layer.precision for layer in layers} == {None}
