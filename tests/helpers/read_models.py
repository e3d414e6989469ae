"""Older models, and models read from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from rtc.compiler.core.unit import Unit
from rtc.compiler.frontend.source import onnx_unit

OLD = """
<ir_version: 7, opset_import: ["" : {opset}]>
g (float[{batch},3,8,8] x) => (float[{batch},5] y) {{
  [conv] a = Conv<pads=[1,1,1,1]>(x, w)
  [bn] b = BatchNormalization(a, s, t, m, v)
  [relu] r = Relu(b)
  [pool] p = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(r)
  [mean] q = GlobalAveragePool(p)
  [squeeze] f = Squeeze<axes=[2,3]>(q)
  [drop] d = Dropout<ratio=0.5>(f)
  [fc] y = Gemm<transB=1>(d, wf, bf)
}}
"""


def old(path: Path, opset: int = 11, batch: str = "1", text: str = OLD) -> onnx.ModelProto:
    model = onnx.parser.parse_model(text.format(opset=opset, batch=batch))
    random = np.random.default_rng(0)
    shapes = {"w": (4, 3, 3, 3), "s": (4,), "t": (4,), "m": (4,), "wf": (5, 4), "bf": (5,)}
    for name, shape in shapes.items():
        values = random.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "v"))
    path.write_bytes(model.SerializeToString())
    return model


SAMPLES = np.random.default_rng(1).normal(size=(16, 3, 8, 8)).astype(np.float32)


def read(model: onnx.ModelProto | str, path: Path) -> Unit:
    made = onnx.parser.parse_model(model) if isinstance(model, str) else model
    path.write_bytes(made.SerializeToString())
    return onnx_unit(path)
