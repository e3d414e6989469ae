from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import ModelProto

from rtc.compiler.core.tensors import BATCH
from rtc.targets.backends.onnx_sizes import Sizes, elements_per_sample

N = BATCH


@pytest.mark.parametrize(
    ("view", "shapes", "expected"),
    [
        ((-1, 1, 28, 28), [(N, 1, 28, 28), (N, 6, 28, 28)], 784),  # axis for axis
        ((-1, 400), [(N, 16, 5, 5)], 400),  # flattened
        ((-1, 768), [(197, N, 768)], 197 * 768),  # the batch is one of the merged axes
        ((-1, 197, 64), [(N, 12, 197, 64)], 12 * 197 * 64),
        ((1, 197, -1, 768), [(197, N, 768)], 197 * 768),  # axes of one carry nothing
        ((-1, 4, 224, 224), [(N, 3, 224, 224)], 4 * 224 * 224),  # padded channels
        ((-1, 2, 28, 28), [(N, 1, 28, 28), (N, 6, 28, 28)], 2 * 784),
        ((-1, 197, 198), [(N, 12, 197, 197)], 12 * 197 * 198),  # merged and padded
        ((-1,), [(N,)], 1),
        ((-1, 768), [(N, 768), (197, N, 768)], None),  # either
        ((-1, 512), [(N, 768)], None),  # nothing is cut off
        ((-1, 64), [(N, 8)], None),  # nor padded eightfold
        ((-1, -1, 3), [(N, 5, 3)], None),  # two open axes
        ((8, 3), [(N, 3)], None),  # no open axis
        ((-1, 3), [], None),
    ],
)
def test_elements_of_a_view(
    view: tuple[int, ...], shapes: list[tuple[int, ...]], expected: int | None
) -> None:
    assert elements_per_sample(view, shapes) == expected


MODEL = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[N,4,10,10] x, float[N,3,6] a, float[N,6,7] b) => (float[N,8,8,8] r, float[N,5] y) {
  [conv] c = Conv <group=2> (x, cw)
  [up] t = ConvTranspose (x, tw)
  [mm] m = MatMul (a, b)
  [mean] v = ReduceMean <keepdims=0> (a, axes)
  [row] w = Slice (v, start, stop, axis)
  [fc] y = Gemm (w, gw)
  [relu] r = Relu (c)
  [sum] e = Einsum <equation="nij,njk->nik"> (a, b)
}
"""


def _model(text: str, **weights: npt.ArrayLike) -> ModelProto:
    model = onnx.parser.parse_model(text)
    tensors = (onnx.numpy_helper.from_array(np.asarray(w), name) for name, w in weights.items())
    model.graph.initializer.extend(tensors)
    return model


def _zeros(*shape: int) -> npt.NDArray[np.float32]:
    return np.zeros(shape, np.float32)


def test_flops_per_sample() -> None:
    weights = {"cw": _zeros(8, 2, 3, 3), "tw": _zeros(4, 2, 1, 1), "gw": _zeros(3, 5)}
    model = _model(MODEL, **weights, axes=[1], start=[0], stop=[3], axis=[1])
    sizes = Sizes.infer(model)
    flops = {node.name: sizes.flops(node) for node in model.graph.node}
    assert flops == {
        "conv": 2 * (8 * 8 * 8) * (2 * 3 * 3),  # outputs x kernel of one group
        "up": 2 * (4 * 10 * 10) * 2,  # inputs x kernel
        "mm": 2 * (3 * 7) * 6,
        "mean": 0,
        "row": 0,
        "fc": 2 * 5 * 3,
        "relu": 0,
        "sum": None,
    }


def test_a_fixed_batch_is_divided_out() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[4,6] x) => (float[4,5] y) { y = MatMul (x, w) }"""
    model = _model(text, w=_zeros(6, 5))
    sizes = Sizes.infer(model)
    assert sizes.batch == 4
    assert sizes.flops(model.graph.node[0]) == 2 * 6 * 5
