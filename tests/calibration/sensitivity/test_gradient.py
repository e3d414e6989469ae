"""Each operator's gradient against the difference quotient of the model itself."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from check_pass import parse
from one_layer_nets import branching

from rtc.calibration.oracle import session
from rtc.calibration.sensitivity.alternative import FloatGraph
from rtc.calibration.sensitivity.assembly import Assembly, shared_constants
from rtc.calibration.sensitivity.gradient import Gradient
from rtc.calibration.sensitivity.shapes import shapes
from rtc.compiler.core.errors import ModelError

RANDOM = np.random.default_rng(5)


def weights(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


IMAGE = "float[N,4,9,9] x"
# ruff: noqa: E501 a model a line
MODELS = {
    "strided convolution": (IMAGE, "t = Conv<strides = [2,2], pads = [1,1,0,0]>(x, w)", {"w": weights(6, 4, 3, 3)}),
    "even kernel, stride 2": (IMAGE, "t = Conv<strides = [2,2]>(x, w)", {"w": weights(6, 4, 2, 2)}),
    "dilated": (IMAGE, "t = Conv<dilations = [2,2]>(x, w)", {"w": weights(5, 4, 3, 3)}),
    "depthwise": (IMAGE, "t = Conv<group = 4>(x, w)", {"w": weights(4, 1, 3, 3)}),
    "groups": (IMAGE, "t = Conv<group = 2, strides = [3,3]>(x, w)", {"w": weights(6, 2, 3, 3)}),
    "transposed": (IMAGE, "t = ConvTranspose<strides = [2,2], pads = [1,1,1,1], output_padding = [1,1]>(x, w)", {"w": weights(4, 3, 3, 3)}),
    "overlapping maxima": (IMAGE, "t = MaxPool<kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1]>(x)", {}),
    "average pool": (IMAGE, "t = AveragePool<kernel_shape = [2,2], strides = [2,2]>(x)", {}),
    "global mean": (IMAGE, "t = GlobalAveragePool(x)", {}),
    "mean of axes": (IMAGE, "t = ReduceMean<keepdims = 0>(x, axes)", {"axes": np.array([2, -1])}),
    "relu": (IMAGE, "t = Relu(x)", {}),
    "clip": (IMAGE, "t = Clip(x, lo, hi)", {"lo": np.float32(-0.5), "hi": np.float32(0.9)}),
    "sigmoid": (IMAGE, "t = Sigmoid(x)", {}),
    "hard swish": (IMAGE, "t = HardSwish(x)", {}),
    "gelu": (IMAGE, "t = Gelu(x)", {}),
    "gate": (IMAGE, "m = GlobalAveragePool(x) s = Sigmoid(m) t = Mul(x, s)", {}),
    "difference": (IMAGE, "m = GlobalAveragePool(x) t = Sub(x, m)", {}),
    "quotient": (IMAGE, "t = Div(x, w)", {"w": 1 + np.abs(weights(1, 4, 1, 1))}),
    "concat": (IMAGE, "r = Relu(x) t = Concat<axis = 1>(r, x, r)", {}),
    "every other pixel, padded channels": (
        IMAGE,
        "s = Slice(x, starts, ends, axes, steps) t = Pad(s, pads)",
        {"starts": np.array([0, 0]), "ends": np.array([9, 9]), "axes": np.array([2, 3]),
         "steps": np.array([2, 2]), "pads": np.array([0, 2, 0, 0, 0, 1, 0, 0])},
    ),
    "transpose and reshape": (IMAGE, "p = Transpose<perm = [0,2,3,1]>(x) t = Reshape(p, shape)", {"shape": np.array([0, -1])}),
    "normalisation": (
        IMAGE,
        "t = BatchNormalization(x, s, b, m, v)",
        {"s": weights(4), "b": weights(4), "m": weights(4), "v": np.abs(weights(4)) + 1},
    ),
    "gemm": ("float[N,7] x", "t = Gemm<transB = 1>(x, w, b)", {"w": weights(5, 7), "b": weights(5)}),
    "matmul of tokens": ("float[N,3,7] x", "t = MatMul(x, w)", {"w": weights(7, 5)}),
}  # fmt: skip


def model(text, source, constants):
    """The operators, and a fully connected layer to three logits behind them."""
    body = parse(f"g ({source}) => (float[N] t) {{ {text} }}", **constants)
    inferred = onnx.load_model_from_string(body.onnx.proto)
    del inferred.graph.output[:]
    inferred = onnx.shape_inference.infer_shapes(inferred)
    known = {each.name: each.type.tensor_type.shape for each in inferred.graph.value_info}
    features = int(np.prod([d.dim_value for d in known["t"].dim[1:]]))
    constants = {**constants, "head": weights(features, 3)}
    return parse(
        f"g ({source}) => (float[N,3] y) {{ {text} f = Flatten(t) y = MatMul(f, head) }}",
        **constants,
    )


def gradient(proto, inputs, seed, of="x"):
    base = FloatGraph(proto)
    part = Assembly(base.model.opset_import)
    part.take_float(base)
    found = Gradient(base, part).back("seed", [of])[of]
    runner = session(part.model(base, [found], {"seed": ("batch", 3)}))
    return runner.run(None, {**shared_constants(base, [part]), "x": inputs, "seed": seed})[0]


@pytest.mark.parametrize("name", MODELS)
def test_against_the_difference_quotient(name):
    source, text, constants = MODELS[name]
    proto = model(text, source, constants).onnx.proto
    shape = [
        3,
        *shapes(onnx.load_model_from_string(proto).graph)["x"][1:],
    ]
    x, direction, seed = weights(*shape), weights(*shape), weights(3, 3)
    runner, step = session(proto), 1e-3
    ahead, behind = (runner.run(None, {"x": x + sign * step * direction})[0] for sign in (1, -1))
    expected = ((ahead - behind).astype(np.float64) / (2 * step) * seed).sum()
    found = (gradient(proto, x, seed).astype(np.float64) * direction).sum()
    size = float(np.abs(ahead - behind).max()) / (2 * step)
    assert found == pytest.approx(expected, rel=0.02, abs=0.03 * size)


def test_a_tensor_with_several_readers_gathers_from_all():
    """Scaling by s the map that three branches read changes the output by what it says."""
    proto = branching().onnx.proto
    base = FloatGraph(proto)
    part = Assembly(base.model.opset_import)
    part.take_float(base)
    found = Gradient(base, part).back("seed", ["p"])["p"]
    outputs = [found, "p", "y"]
    runner = session(part.model(base, outputs, {"seed": ("batch", 8)}))
    x, seed = weights(2, 3, 16, 16), weights(2, 8)
    g, p, _ = runner.run(outputs, {**shared_constants(base, [part]), "x": x, "seed": seed})

    behind = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(base.model)).extract_model(
        ["p"], ["y"]
    )
    rest, step = session(behind.SerializeToString()), 1e-3
    ahead, back = (rest.run(None, {"p": p * np.float32(1 + s)})[0] for s in (step, -step))
    expected = ((ahead - back).astype(np.float64) / (2 * step) * seed).sum()
    assert (g.astype(np.float64) * p).sum() == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("t = Softmax<axis = 1>(x)", "Softmax"),
        ("s = Transpose<perm = [0,2,1]>(x) t = MatMul(x, s)", "MatMul of two activations"),
    ],
)
def test_an_operator_without_one_is_named(text, where):
    proto = model(text, "float[N,4,4] x", {}).onnx.proto
    with pytest.raises(ModelError, match=where) as caught:
        gradient(proto, weights(2, 4, 4), weights(2, 3))
    assert caught.value.id == "no-gradient"
    assert "exact" in caught.value.fix
