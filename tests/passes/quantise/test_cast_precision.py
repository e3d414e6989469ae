from dataclasses import replace

import nets
import numpy as np
import pytest
from check_pass import check_pass, constant, equations, parse
from half_nets import FAR, Case, normal
from half_nets import context as half_context
from nets import ONNXRUNTIME, OPENVINO, TENSORRT, planned, residual

from rtc.compiler.core.errors import GateError
from rtc.compiler.core.precision import Variant
from rtc.compiler.execution.certified_pass import certify
from rtc.passes.quantise.assign_precision import AssignPrecision
from rtc.passes.quantise.cast_precision import CastPrecision
from rtc.passes.quantise.insert_qdq import InsertQdq

STEP = CastPrecision()


def cast(unit, scheme, variant, **options):
    return check_pass(STEP, unit, planned(unit, scheme, variant, **options))


CHAIN = parse(
    """g (float[N,4] x) => (float[N,3] y) {
    [fc1] a = MatMul(x, w1)
    [relu] r = Relu(a)
    [flat] f = Flatten(r)
    [fc2] y = Gemm<transB = 1>(f, w2, b)
}""",
    w1=np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32),
    w2=np.random.default_rng(1).standard_normal((3, 6)).astype(np.float32),
    b=np.ones(3, np.float32),
)


def test_neighbours_of_one_type_have_no_casts_between_them():
    result = cast(CHAIN, TENSORRT, Variant.HALF)
    assert equations(result.unit) == [
        "x/fp16 = Cast(x)",
        "a = MatMul(x/fp16, w1/fp16)",
        "r = Relu(a)",
        "f = Flatten(r)",
        "y/fp16 = Gemm(f, w2/fp16, b/fp16)",
        "y = Cast(y/fp16)",
    ]
    assert constant(result.unit, "w1/fp16").dtype == np.float16
    assert result.details == {"casts": 2, "half_nodes": 3}


def test_inputs_and_outputs_stay_float32():
    import onnx

    graph = onnx.load_model_from_string(cast(CHAIN, TENSORRT, Variant.HALF).unit.onnx.proto).graph
    kinds = [value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)]
    assert kinds == [onnx.TensorProto.FLOAT] * 2


def test_a_layer_pinned_to_fp32_is_cast_around():
    lines = equations(cast(CHAIN, TENSORRT, Variant.HALF, pin={"fc1": "fp32"}).unit)
    assert lines == [
        "a = MatMul(x, w1)",
        "r = Relu(a)",  # goes with the layer that it is fused into
        "f = Flatten(r)",
        "f/fp16 = Cast(f)",
        "y/fp16 = Gemm(f/fp16, w2/fp16, b/fp16)",
        "y = Cast(y/fp16)",
    ]


def test_one_half_layer_in_an_fp32_model():
    lines = equations(cast(CHAIN, TENSORRT, Variant.FP32, pin={"fc2": "half"}).unit)
    assert [line for line in lines if "Cast" in line] == ["f/fp16 = Cast(f)", "y = Cast(y/fp16)"]


def test_bfloat16():
    unit = cast(CHAIN, replace(TENSORRT, half="bf16"), Variant.HALF).unit
    assert constant(unit, "w1/bf16").dtype.name == "bfloat16"


def test_one_cast_serves_all_readers_and_shared_weights_are_converted_once():
    unit = parse(
        """g (float[N,4] x) => (float[N,4] y) {
        [one] a = MatMul(x, w)
        [two] b = MatMul(x, w)
        [join] y = Add(a, b)
    }""",
        w=np.eye(4, dtype=np.float32),
    )
    lines = equations(cast(unit, TENSORRT, Variant.HALF).unit)
    assert "b = MatMul(x/fp16, w/fp16)" in lines
    assert sum("Cast" in line for line in lines) == 2


def test_q_and_dq_stay_float32_and_int8_layers_give_half():
    unit = residual()
    ctx = planned(unit, TENSORRT, Variant.MIX)
    quantised = InsertQdq().apply(unit, ctx).unit
    result = check_pass(STEP, quantised, ctx)
    lines = equations(result.unit)
    assert "c1 = Conv(a/dq/fp16, conv1/weight/dq/fp16, b1/fp16)" in lines
    assert "r1 = Relu(c1)" in lines
    assert "r1/q = QuantizeLinear(r1/fp32, r1/scale, r1/zero_point)" in lines
    assert constant(result.unit, "r1/scale").dtype == np.float32


@pytest.mark.parametrize("variant", [Variant.HALF, Variant.MIX])
def test_one_float_type_goes_into_the_metadata(variant):
    import onnx

    result = cast(CHAIN, OPENVINO, variant)
    model = onnx.load_model_from_string(result.unit.onnx.proto)
    assert [(each.key, each.value) for each in model.metadata_props] == [("rtc.half", "bf16")]
    assert equations(result.unit) == equations(CHAIN)


def test_operators_without_a_half_form_stay_float():
    unit = parse("""g (float[N,4] x) => (int64[N,1] y) {
        [double] a = Add(x, x)
        [shape] s = Shape(a)
        [fill] z = ConstantOfShape(s)
        [sum] b = Add(a, z)
        [top] y = ArgMax<axis = 1>(b)
    }""")
    ctx = planned(unit, TENSORRT, Variant.HALF)
    result = check_pass(STEP, unit, ctx)
    assert "z/fp16 = Cast(z)" in equations(result.unit)


@pytest.mark.parametrize(
    ("scheme", "variant"),
    [(TENSORRT, Variant.FP32), (TENSORRT, Variant.INT8), (ONNXRUNTIME, Variant.HALF)],
)
def test_nothing_to_do(scheme, variant):
    result = STEP.apply(CHAIN, planned(CHAIN, scheme, variant))
    assert result.unit is CHAIN
    assert result.summary == "no layer is planned in a half type"


@pytest.mark.parametrize("variant", [Variant.HALF, Variant.INT8, Variant.MIX])
def test_tensorrt_rtx_builds_it_in_the_planned_types(variant):
    """Strongly typed: any inconsistency of types is a parser's error. Builds without a GPU."""
    pytest.importorskip("tensorrt_rtx", reason="the tensorrt-rtx extra is not installed")
    unit = residual()
    ctx = planned(unit, TENSORRT, variant)
    quantised = InsertQdq().apply(unit, ctx).unit
    built = _tensorrt_layers(STEP.apply(quantised, ctx).unit)
    for layer in nets.quantised(ctx.plan):
        if ctx.plan.layers[layer].op == "Conv":
            assert "Datatype: Int8" in _inputs(built, layer)
    if variant is Variant.HALF:
        assert "Datatype: Float" not in _inputs(built, "conv1")


def _inputs(layers, node):
    """The inputs of the convolution that TensorRT made of a node."""
    line = next(
        line
        for line in layers
        if f"[ONNX Layer: {node}]" in line and "LayerType: correlation" in line
    )
    return line.split("Inputs: ")[1].split("Constants: ")[0]


def _tensorrt_layers(unit):
    import tensorrt_rtx as trt

    class Listener(trt.ILogger):
        def __init__(self):
            super().__init__()
            self.layers, self.errors = [], []

        def log(self, severity, message):
            if message.startswith("Layers:"):
                self.layers = message.splitlines()
            if severity <= trt.ILogger.ERROR:
                self.errors.append(message)

    listener = Listener()
    builder = trt.Builder(listener)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, listener)
    assert parser.parse(unit.onnx.proto), [
        parser.get_error(i).desc() for i in range(parser.num_errors)
    ]
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    profile = builder.create_optimization_profile()
    profile.set_shape("x", (1, 3, 16, 16), (8, 3, 16, 16), (8, 3, 16, 16))
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None, listener.errors
    return listener.layers


SHAPES = """g (float[N,3,4,4] x) => (float[N,5] y)
<int64 zero = {0}, int64 one = {1}, int64 two = {2}, int64 three = {3}, int64[1] first = {0}> {
    [conv] c = Conv(x, w)
    [shape] s = Shape(c)
    [n] n = Gather(s, zero)
    [c] k = Gather(s, one)
    [h] h = Gather(s, two)
    [w] v = Gather(s, three)
    [ch] kh = Mul(k, h)
    [chw] khw = Mul(kh, v)
    [n1] n1 = Unsqueeze(n, first)
    [m1] m1 = Unsqueeze(khw, first)
    [to] to = Concat<axis = 0>(n1, m1)
    [flat] f = Reshape(c, to)
    [fc] y = MatMul(f, head)
}"""


@pytest.mark.parametrize(("half", "nodes"), [("fp16", 2), ("bf16", 1)])  # no Conv in BF16
def test_integers_of_shape_arithmetic_stay_integers(half, nodes):
    random = np.random.default_rng(2)
    unit = parse(
        SHAPES,
        w=random.standard_normal((2, 3, 1, 1)).astype(np.float32),
        head=random.standard_normal((32, 5)).astype(np.float32),
    )
    result = cast(unit, replace(TENSORRT, half=half), Variant.HALF)
    assert "kh = Mul(k, h)" in equations(result.unit)
    assert "to = Concat(n1, m1)" in equations(result.unit)
    assert result.details == {"casts": 2, "half_nodes": nodes}


def test_floats_computed_of_sizes_stay_float32():
    """In FP16 the size 4099 would be 4100."""
    unit = parse(
        """g (float[N,4099] x) => (float[N,4099] y) <int64 one = {1}> {
        [double] a = Add(x, x)
        [sizes] s = Shape(a)
        [width] w = Gather(s, one)
        [float] f = Cast<to = 1>(w)
        [share] i = Reciprocal(f)
        [scaled] y = Mul(a, i)
    }"""
    )
    lines = equations(cast(unit, TENSORRT, Variant.HALF).unit)
    assert "i = Reciprocal(f)" in lines
    assert "i/fp16 = Cast(i)" in lines


@pytest.mark.parametrize("variant", [Variant.HALF, Variant.MIX])
def test_operators_that_onnx_does_not_know_stay_float(variant):
    random = np.random.default_rng(3)
    unit = parse(
        """g (float[N,3,4,4] x) => (float[N,5] y) {
        [fused] a = com.microsoft.FusedConv<activation = "Relu", kernel_shape = [1,1]>(x, w)
        [gelu] g = com.microsoft.Gelu(a)
        [pool] p = GlobalAveragePool(g)
        [flat] f = Flatten(p)
        [fc] y = MatMul(f, head)
    }""",
        opsets='"" : 17, "com.microsoft" : 1',
        w=random.standard_normal((32, 3, 1, 1)).astype(np.float32),
        head=random.standard_normal((32, 5)).astype(np.float32),
    )
    ctx = planned(unit, TENSORRT, variant, min_snr_db=0.0)
    quantised = InsertQdq().apply(unit, ctx).unit
    lines = equations(check_pass(STEP, quantised, ctx).unit)
    assert "a = FusedConv(x, w)" in lines
    assert "g = Gelu(a)" in lines
    assert any(line.startswith("y/fp16 = MatMul(f") for line in lines)


def test_where_the_runtime_takes_one_type_its_engine_is_judged_if_it_runs_here():
    case = Case(FAR, "", normal(24, 16))
    ctx = half_context(case, OPENVINO)
    plan = AssignPrecision(variant=Variant.HALF).apply(case.unit, ctx).plan
    ctx = replace(ctx, plan=plan)
    result = STEP.apply(case.unit, ctx)
    with pytest.raises(GateError, match="the pass broke its bound") as broken:
        certify(STEP, case.unit, result, ctx)
    assert "precision.pin" not in broken.value.fix  # a pin spares no layer of it
    assert "precision.offer" in broken.value.fix
    here = replace(ctx, target=replace(ctx.where(), runs=True))
    (row,) = certify(STEP, case.unit, STEP.apply(case.unit, here), here)
    assert (row.passed, row.exact, row.samples) == (True, False, 0)
    assert row.measured.endswith("its engine is held to the float model")
    in_graph = replace(OPENVINO, half_in_graph=True)
    halves = replace(here, target=replace(here.where(), scheme=in_graph))
    with pytest.raises(GateError, match=r"the pass broke its bound.*precision\.pin"):
        certify(STEP, case.unit, STEP.apply(case.unit, halves), halves)
