"""An operator is matched by its domain and its name: a `Conv` of somebody's own is not ONNX's."""

import numpy as np
import onnx
import pytest
from check_pass import context_for, unit_of

from rtc.compiler.core.operators import op_of
from rtc.passes.graph.eliminate_identity import EliminateIdentity
from rtc.passes.graph.fold_batchnorm import FoldBatchnorm
from rtc.passes.support.layers import weighted_layers
from rtc.passes.support.onnx_graph import read
from rtc.targets.backends.integer_products import products
from rtc.targets.backends.onnx_graph import NodeIndex
from rtc.targets.backends.onnx_sizes import Sizes

ONES = np.ones((4, 4, 1, 1), np.float32)


def model_of(body, **weights):
    """x (N, 4, 8, 8) to y of the same shape; operators of `own` besides ONNX's."""
    model = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["" : 17, "own" : 1, "com.microsoft" : 1]>
        g (float[N,4,8,8] x) => (float[N,4,8,8] y) {{
            {body}
        }}""")
    tensors = (onnx.numpy_helper.from_array(each, name) for name, each in weights.items())
    model.graph.initializer.extend(tensors)
    return model


@pytest.mark.parametrize(
    ("domain", "kind", "expected"),
    [
        ("", "Conv", "Conv"),
        ("ai.onnx", "Conv", "Conv"),
        ("com.microsoft.nchwc", "Conv", "com.microsoft.nchwc.Conv"),
        ("own", "Conv", "own.Conv"),
        ("com.microsoft", "DequantizeLinear", "DequantizeLinear"),
        ("own", "DequantizeLinear", "own.DequantizeLinear"),
    ],
)
def test_an_operator_goes_by_its_bare_name_where_it_is_onnxs(domain, kind, expected):
    assert op_of(onnx.helper.make_node(kind, ["x"], ["y"], domain=domain)) == expected


def test_a_conv_of_ones_own_is_no_layer_and_no_known_work():
    model = model_of("[mine] h = own.Conv(x, w)\n[onnx] y = Conv(h, w)", w=ONES)
    assert [layer.name for layer in weighted_layers(read(unit_of(model.SerializeToString())))] == [
        "onnx"
    ]
    assert [each.name for each in products(model)] == ["onnx"]
    assert NodeIndex(tuple(model.graph.node)).products == {1}
    assert Sizes.infer(model).flops(model.graph.node[0]) is None


def test_an_identity_of_ones_own_stays():
    unit = unit_of(model_of("h = own.Identity(x)\ny = Relu(h)").SerializeToString())
    assert not EliminateIdentity().apply(unit, context_for(unit)).modified


def test_a_normalisation_of_ones_own_is_not_folded():
    ones = {name: np.ones(4, np.float32) for name in "sbmv"}
    body = "h = Conv(x, w)\ny = own.BatchNormalization(h, s, b, m, v)"
    unit = unit_of(model_of(body, w=ONES, **ones).SerializeToString())
    assert not FoldBatchnorm().apply(unit, context_for(unit)).modified
