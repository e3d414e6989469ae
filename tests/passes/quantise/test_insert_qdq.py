from dataclasses import replace

import numpy as np
import onnx
import pytest
from check_pass import check_pass, constant, equations, parse
from nets import ONNXRUNTIME, OPENVINO, TENSORRT, context, planned, residual

from rtc.compiler.core.errors import GateError, ModelError, RecipeError
from rtc.compiler.core.precision import Variant
from rtc.compiler.core.target import QuantScheme
from rtc.compiler.core.unit import OnnxModel, Unit
from rtc.compiler.execution.certified_pass import certify
from rtc.compiler.execution.pass_contract import check_requirements
from rtc.passes.quantise.insert_qdq import InsertQdq
from rtc.targets.backends import integer_products, x86

STEP = InsertQdq()


def insert(unit, scheme, variant=Variant.INT8, **options):
    return check_pass(STEP, unit, planned(unit, scheme, variant, **options))


def without_weights(unit):
    return [line for line in equations(unit) if "/weight/" not in line.split(" = ")[0]]


CHAIN = parse(
    """g (float[N,4] x) => (float[N,3] y) {
    [fc1] a = MatMul(x, w1)
    [relu] r = Relu(a)
    [fc2] y = Gemm<transB = 1>(r, w2, b)
}""",
    w1=np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32),
    w2=np.random.default_rng(1).standard_normal((3, 6)).astype(np.float32),
    b=np.ones(3, np.float32),
)


def test_inputs_are_quantised_and_outputs_are_not():
    result = insert(CHAIN, TENSORRT)
    assert without_weights(result.unit) == [
        "x/q = QuantizeLinear(x, x/scale, x/zero_point)",
        "x/dq = DequantizeLinear(x/q, x/scale, x/zero_point)",
        "a = MatMul(x/dq, fc1/weight/dq)",
        "r = Relu(a)",
        "r/q = QuantizeLinear(r, r/scale, r/zero_point)",
        "r/dq = DequantizeLinear(r/q, r/scale, r/zero_point)",
        "y = Gemm(r/dq, fc2/weight/dq, b)",
    ]
    assert result.details == {"quantised_tensors": 2, "int8_layers": 2}


ATTENTION = """g (float[N,6,8] x) => (float[N,48] y)
<float half = {0.5}, int64[3] thirds = {8, 8, 8}> {
    [norm] a = Tanh(x)
    %s
    kt = Transpose<perm = [0,2,1]>(k)
    qs = Mul(q, half)
    [scores] s = MatMul(qs, kt)
    p = Softmax(s)
    [mixed] m = MatMul(p, v)
    [out] o = MatMul(m, w)
    y = Flatten(o)
}"""
BEHIND = {
    "one layer": "[qkv] z = MatMul(a, wz) zb = Add(z, bias) q, k, v = Split<axis = 2>(zb, thirds)",
    "three layers": "[q] q = MatMul(a, wq) [k] k = MatMul(a, wk) [v] v = MatMul(a, wv)",
    "the same one": "[q] b = MatMul(a, wq) q = Relu(b) k = Identity(q) v = Neg(q)",
    "read by a layer too": "[q] q = MatMul(a, wq) [k] k = MatMul(q, wk) [v] v = MatMul(k, wv)",
}
SIGNED = QuantScheme("by-sign", quantise_outputs=True, paired_products=True)


@pytest.mark.parametrize("behind", BEHIND)
def test_where_sums_have_16_bits_no_two_activations_are_multiplied_as_integers(behind):
    random = np.random.default_rng(0)
    shapes = {"wz": (8, 24), "bias": (24,), **dict.fromkeys(("wq", "wk", "wv", "w"), (8, 8))}
    weights = {
        name: random.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()
    }
    unit = parse(ATTENTION % BEHIND[behind], **weights)
    for scheme, found in ((SIGNED, ()), (replace(SIGNED, paired_products=False), ("scores",))):
        result = insert(unit, scheme)
        model = onnx.load_model_from_string(result.unit.onnx.proto)
        activations = {
            product.name
            for product in integer_products.products(model)
            if product.first and product.second and product.second.stored is None
        }
        assert activations == set(found)
        named = [node for node in model.graph.node if node.op_type == "MatMul"]
        layers = {node.name for node in named} - {"scores", "mixed"}
        assert result.details["int8_layers"] == len(layers)
        if scheme is SIGNED:
            assert x86.overflowing(model) == ()


def test_quantised_outputs_and_the_models_own_output_keeps_its_name():
    lines = without_weights(insert(CHAIN, ONNXRUNTIME).unit)
    assert lines[-3:] == [
        "y/float = Gemm(r/dq, fc2/weight/dq, b)",
        "y/q = QuantizeLinear(y/float, y/scale, y/zero_point)",
        "y = DequantizeLinear(y/q, y/scale, y/zero_point)",
    ]
    assert sum("QuantizeLinear(r," in line for line in lines) == 1


def test_logits_stay_float_where_a_biased_product_may_write_them_so():
    lines = without_weights(insert(CHAIN, replace(ONNXRUNTIME, bias="int32")).unit)
    assert lines[-1] == "y = Gemm(r/dq, fc2/weight/dq, fc2/bias/dq)"


def test_a_bias_without_a_name_is_none():
    model = onnx.load_model_from_string(CHAIN.onnx.proto)
    model.graph.node[2].input[2] = ""
    unnamed = Unit(OnnxModel(model.SerializeToString()), CHAIN.signature)
    del model.graph.node[2].input[2:]
    without = Unit(OnnxModel(model.SerializeToString()), CHAIN.signature)
    scheme = replace(ONNXRUNTIME, bias="int32")
    lines = without_weights(insert(unnamed, scheme).unit)
    assert [line.replace(", )", ")") for line in lines] == without_weights(
        insert(without, scheme).unit
    )
    assert lines[-1] == "y = DequantizeLinear(y/q, y/scale, y/zero_point)"


def test_types_follow_the_scheme():
    symmetric = insert(CHAIN, TENSORRT).unit
    assert constant(symmetric, "x/zero_point") == 0
    assert constant(symmetric, "x/zero_point").dtype == np.int8
    affine = insert(CHAIN, ONNXRUNTIME).unit
    assert constant(affine, "x/zero_point").dtype == np.uint8
    assert constant(affine, "x/zero_point") > 0


def test_weights_are_int8_per_output_channel():
    unit = insert(CHAIN, TENSORRT).unit
    assert constant(unit, "fc1/weight/q").dtype == np.int8
    assert constant(unit, "fc1/weight/scale").shape == (6,)  # MatMul: the last axis
    assert constant(unit, "fc2/weight/scale").shape == (3,)  # Gemm with transB: the first
    per_tensor = insert(CHAIN, replace(TENSORRT, per_channel=False)).unit
    assert constant(per_tensor, "fc2/weight/scale").shape == ()


def test_int32_biases_have_the_product_of_the_scales():
    unit = insert(CHAIN, replace(ONNXRUNTIME, bias="int32")).unit
    scale = constant(unit, "fc2/bias/scale")
    np.testing.assert_allclose(
        scale, constant(unit, "fc2/weight/scale") * constant(unit, "r/scale"), rtol=1e-6
    )
    np.testing.assert_allclose(constant(unit, "fc2/bias/q") * scale, 1.0, rtol=1e-3)


def test_the_skip_branch_is_quantised_and_the_convolution_left_to_be_fused():
    lines = equations(insert(residual(), TENSORRT).unit)
    assert "j = Add(c2, a/dq)" in lines
    assert "c1 = Conv(a/dq, conv1/weight/dq, b1)" in lines  # one pair serves both readers


def test_a_skip_from_a_float_layer_stays_float():
    lines = equations(insert(residual(), TENSORRT, Variant.MIX).unit)
    assert "j = Add(c2, a)" in lines


def test_where_two_convolutions_meet_the_shorter_path_is_quantised():
    random = np.random.default_rng(4)
    unit = parse(
        """g (float[N,4,4,4] x) => (float[N,4] y) {
        [one] a = Conv(x, w)
        [two] b = Conv(a, w)
        [short] c = Conv(x, w)
        [join] j = Add(c, b)
        [mean] m = GlobalAveragePool(j)
        [flat] y = Flatten(m)
    }""",
        w=random.standard_normal((4, 4, 1, 1)).astype(np.float32),
    )
    assert "j = Add(c/dq, b)" in equations(insert(unit, TENSORRT).unit)


def test_max_pool_has_one_scale_on_both_sides():
    unit = insert(residual(), OPENVINO).unit
    assert "m = MaxPool(rp/dq)" in equations(unit)
    assert "c3 = Conv(m/dq, conv3/weight/dq)" in equations(unit)
    assert constant(unit, "m/scale") == constant(unit, "rp/scale")


def test_joins_are_integers_where_outputs_are_quantised():
    lines = equations(insert(residual(), ONNXRUNTIME).unit)
    assert "j = Add(c2/dq, a/dq)" in lines
    assert "g = GlobalAveragePool(c3/dq)" in lines
    assert "f = Flatten(g/dq)" in lines


def test_shared_weights_are_quantised_for_each_layer():
    unit = parse(
        """g (float[N,4] x) => (float[N,4] y) {
        [fc1] a = MatMul(x, w)
        [fc2] y = MatMul(a, w)
    }""",
        w=np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32),
    )
    lines = equations(insert(unit, TENSORRT, pin={"fc1": "fp32"}).unit)
    assert "a = MatMul(x, w)" in lines
    assert "y = MatMul(a/dq, fc2/weight/dq)" in lines


def test_a_tensor_read_twice_by_one_node():
    unit = parse(
        """g (float[N,4] x) => (float[N,4] y) {
        [fc] a = MatMul(x, w)
        [twice] y = Add(a, a)
    }""",
        w=np.eye(4, dtype=np.float32),
    )
    assert "y/float = Add(a/dq, a/dq)" in equations(insert(unit, ONNXRUNTIME).unit)


def test_dead_channels_get_positive_scales_and_onnxruntime_agrees():
    weight = np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)
    weight[2], weight[5] = 0.0, 1e-14
    unit = parse(
        """g (float[N,3,6,6] x) => (float[N,8,4,4] y) {
        [conv] c = Conv(x, w, b)
        [relu] y = Relu(c)
    }""",
        w=weight,
        b=np.full(8, 0.5, np.float32),
    )
    ctx = planned(unit, ONNXRUNTIME, Variant.INT8)
    result = InsertQdq().apply(unit, ctx)
    assert np.all(constant(result.unit, "conv/weight/scale") > 0)
    inputs = ctx.calibration().inputs()
    before, after = _optimised(unit, inputs)[0], _optimised(result.unit, inputs)
    assert "QLinearConv" in after[1]
    step = float(constant(result.unit, "y/scale"))
    assert np.abs(before - after[0])[:, [2, 5]].max() <= 2 * step


@pytest.mark.parametrize(
    ("scheme", "left"), [(ONNXRUNTIME, set()), (replace(ONNXRUNTIME, bias="int32"), set())]
)
def test_onnxruntime_computes_every_planned_layer_in_integers(scheme, left):
    unit = residual()
    result = insert(unit, scheme)
    _, operators = _optimised(result.unit, np.zeros((1, 3, 16, 16), np.float32))
    float_operators = {"Conv", "FusedConv", "Gemm", "FusedGemm", "Add", "GlobalAveragePool"}
    assert float_operators & set(operators) == left
    assert operators.count("QLinearConv") == 6


def test_nothing_to_do():
    ctx = planned(CHAIN, TENSORRT, Variant.FP32)
    result = STEP.apply(CHAIN, ctx)
    assert result.unit is CHAIN
    assert result.summary == "no layer is planned in INT8"


def test_an_old_opset_is_a_model_error():

    model = onnx.load_model_from_string(CHAIN.onnx.proto)
    model.opset_import[0].version = 12
    old = Unit(OnnxModel(model.SerializeToString()), CHAIN.signature)
    ctx = planned(CHAIN, TENSORRT, Variant.INT8)
    with pytest.raises(ModelError) as error:
        STEP.apply(old, ctx)
    assert error.value.id == "old-opset"


def test_it_requires_a_plan():
    with pytest.raises(RecipeError, match="needs a precision plan"):
        check_requirements(STEP, context(CHAIN, TENSORRT))


def _optimised(unit, inputs):
    """What optimised ONNX Runtime gives, and the operators it runs."""
    import tempfile
    from pathlib import Path

    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(Path(folder, "optimised.onnx"))
        session = ort.InferenceSession(unit.onnx.proto, options, providers=["CPUExecutionProvider"])
        graph = onnx.load(options.optimized_model_filepath).graph
    return session.run(None, {"x": inputs})[0], [node.op_type for node in graph.node]


def joined(between):
    return parse(
        f"""g (float[N,4,6,6] x) => (float[N,4] y) {{
        [left] a = Conv (x, w1)
        [gate] s = Sigmoid (a)
        [join] j = Concat <axis = 1> (a, s)
        {between}
        [mean] m = GlobalAveragePool (c)
        [flat] y = Flatten (m)
    }}""",
        w1=np.random.default_rng(0).standard_normal((8, 4, 1, 1)).astype(np.float32),
        w2=np.random.default_rng(1).standard_normal((4, 16, 1, 1)).astype(np.float32),
    )


AS_IS = joined("[right] c = Conv (j, w2)")
MOVED = joined("[moved] t = Transpose <perm = [0,1,3,2]> (j) [right] c = Conv (t, w2)")


def test_a_signed_concat_that_an_int8_layer_reads_is_written_in_uint8_where_the_scheme_asks():
    by_sign = replace(ONNXRUNTIME, activation="by-sign")
    asking = replace(by_sign, unsigned_after=("Concat",))
    signed, shifted = insert(AS_IS, by_sign).unit, insert(AS_IS, asking).unit
    assert constant(signed, "j/zero_point").dtype == np.int8
    assert constant(shifted, "j/zero_point").dtype == np.uint8
    assert constant(shifted, "j/zero_point") == 128
    assert constant(shifted, "j/scale") == constant(signed, "j/scale")
    assert constant(shifted, "x/zero_point").dtype == np.int8
    moved = insert(MOVED, asking).unit  # each move has a Q of its own, which the layer reads
    for name in ("j", "t"):
        assert constant(moved, f"{name}/zero_point").dtype == np.int8


def clipped_at(limit):
    """A pass and its context, with the ranges of all tensors cut to ±limit."""
    ctx = planned(CHAIN, TENSORRT, Variant.INT8)
    cut = {
        name: replace(seen, low=-limit, high=limit, limit=limit)
        for name, seen in ctx.statistics.items()
    }
    ctx = replace(ctx, statistics=cut)
    return STEP, CHAIN, STEP.apply(CHAIN, ctx), ctx


def test_how_far_int8_may_change_a_model_is_for_the_gates_to_say():
    (row,) = certify(*clipped_at(0.25))
    changed = int(row.measured.split("changes for ")[1].split(" of")[0])
    assert changed > 0.1 * row.samples


def test_a_model_that_int8_leaves_nothing_of_is_refused_with_what_there_is_to_do():
    with pytest.raises(GateError, match="the top-1 class changes for") as caught:
        certify(*clipped_at(1e-12))
    assert "precision.pin (`rtc precision culprits`" in caught.value.fix
