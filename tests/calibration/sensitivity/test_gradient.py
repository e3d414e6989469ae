"""Gradients through whole models; each operator's own is in `rules`."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from gradient_models import MODELS, gradient, model, operators_of, weights
from one_layer_nets import branching

from rtc.calibration.oracle import session
from rtc.calibration.sensitivity.alternative import FloatGraph
from rtc.calibration.sensitivity.assembly import Assembly, shared_constants
from rtc.calibration.sensitivity.gradient import Gradient
from rtc.calibration.sensitivity.rules import RULES
from rtc.compiler.core.errors import ModelError


def test_every_rule_has_a_model():
    operators = set().union(*(operators_of(name) for name in MODELS))
    # Of other opsets; roundings, of which the last test below tells; and a bend and a jump at one
    # place, which a difference quotient smooths over another width than the rule does.
    others = {"Swish", "Upsample", "QuantizeLinear", "DequantizeLinear", "Selu", "ThresholdedRelu"}
    assert set(RULES) - operators == others


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
        ("t = MeanVarianceNormalization<axes = [1]>(x)", "MeanVarianceNormalization"),
        ("r = ReduceMean(x) t = Pow(x, r)", "Pow whose exponent is an activation"),
        ('t = Einsum<equation = "bii->bi">(x)', "Einsum"),
    ],
)
def test_an_operator_without_one_is_named(text, where):
    proto = model(text, "float[N,4,4] x", {}).onnx.proto
    with pytest.raises(ModelError, match=where) as caught:
        gradient(proto, weights(2, 4, 4), weights(2, 3))
    assert caught.value.id == "no-gradient"
    assert "exact" in caught.value.fix


def test_what_is_quantised_passes_gradients_on_as_if_it_were_not():
    constants = {"s": np.float32(0.125), "z": np.int8(0)}
    text = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) t = Tanh(d)"
    x = np.random.default_rng(1).integers(-9, 9, (2, 4)).astype(np.float32) / 8
    seed = weights(2, 3)
    proto = model(text, "float[N,4] x", constants).onnx.proto
    head = onnx.numpy_helper.to_array(
        next(t for t in onnx.load_model_from_string(proto).graph.initializer if t.name == "head")
    )
    found = gradient(proto, x, seed)
    np.testing.assert_allclose(found, (seed @ head.T) * (1 - np.tanh(x) ** 2), rtol=1e-3, atol=1e-4)
