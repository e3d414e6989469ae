from __future__ import annotations

import numpy as np
import pytest
from check_pass import constant, parse

from rtc.calibration.oracle import Oracle
from rtc.passes.repair.channels import bias_obstacle, bias_of, put_bias, put_weights, weights_of
from rtc.passes.support.layers import weighted_layers
from rtc.passes.support.onnx_graph import Names, read, write

RNG = np.random.default_rng(0)


def draw(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


LAYERS = {
    "Conv": ("y = Conv<group=2>(x, w, b)", (6, 2, 3, 3), (2, 3, 2, 9)),
    "ConvTranspose": ("y = ConvTranspose(x, w, b)", (4, 6, 3, 3), (1, 6, 4, 9)),
    "Gemm": ("f = Flatten(x) y = Gemm(f, w, b)", (64, 5), (1, 5, 64, 1)),
    "Gemm turned": ("f = Flatten(x) y = Gemm<transB=1>(f, w, b)", (5, 64), (1, 5, 64, 1)),
    "MatMul": ("f = Flatten(x) y = MatMul(f, w)", (64, 5), (1, 5, 64, 1)),
}


def unit_of(body: str, shape: tuple[int, ...], bias: int):
    text = f"g (float[N,4,4,4] x) => (float[N,A,B,C] y) {{ {body} }}"
    if "Flatten" in body:
        text = f"g (float[N,4,4,4] x) => (float[N,5] y) {{ {body} }}"
    constants = {"w": draw(*shape)} | ({"b": draw(bias)} if "b)" in body else {})
    return parse(text, opsets='"" : 17', **constants)


@pytest.mark.parametrize("kind", LAYERS)
def test_weights_in_one_shape_and_back(kind: str) -> None:
    body, shape, wanted = LAYERS[kind]
    unit = unit_of(body, shape, 5 if "Flatten" in body else 6)
    graph = read(unit)
    (layer,) = weighted_layers(graph)
    weights = weights_of(layer)
    assert weights.shape == wanted
    factors = np.arange(1, wanted[0] * wanted[1] + 1).reshape(wanted[0], wanted[1], 1, 1)
    put_weights(Names(graph), layer, weights * factors)
    if layer.op != "MatMul":
        put_bias(Names(graph), layer, np.zeros(layer.channels[1]))
    x = draw(2, 4, 4, 4)
    with Oracle(unit.onnx.proto) as one, Oracle(write(graph, unit).onnx.proto) as other:
        before, after = one.run(x)["y"], other.run(x)["y"]
    bias = constant(unit, "b") if layer.op != "MatMul" else np.zeros(before.shape[1])
    spread = (1, -1, *[1] * (before.ndim - 2))
    plain = before - bias.reshape(spread)
    np.testing.assert_allclose(after, plain * factors.reshape(spread), rtol=2e-4, atol=2e-4)


def test_biases_and_why_there_is_none() -> None:
    body, shape, _ = LAYERS["Conv"]
    (layer,) = weighted_layers(read(unit_of(body, shape, 6)))
    assert bias_obstacle(layer) == ""
    bias = bias_of(layer)
    assert bias is not None
    assert bias.shape == (6,)
    body, shape, _ = LAYERS["MatMul"]
    (layer,) = weighted_layers(read(unit_of(body, shape, 5)))
    assert bias_obstacle(layer) == "a MatMul has no bias"
    assert bias_of(layer) is None
    computed = parse(
        "g (float[N,4] x, float[3] c) => (float[N,3] y) { b = Relu(c) y = Gemm(x, w, b) }",
        w=draw(4, 3),
    )
    (layer,) = weighted_layers(read(computed))
    assert bias_obstacle(layer) == "its bias is not constant"
