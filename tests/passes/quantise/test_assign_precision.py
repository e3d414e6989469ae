from dataclasses import replace

import numpy as np
import pytest
from check_pass import check_pass, parse
from nets import FLOAT_ONLY, ONNXRUNTIME, OPENVINO, TENSORRT, context, quantised, residual

from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.precision import LayerDecision, Precision, PrecisionPlan, Variant
from rtc.passes.quantise.assign_precision import AssignPrecision
from rtc.passes.support.layers import weighted_layers
from rtc.passes.support.onnx_graph import read

UNIT = residual()
CONTEXTS = {
    scheme: context(UNIT, scheme) for scheme in (FLOAT_ONLY, ONNXRUNTIME, OPENVINO, TENSORRT)
}
FP32, HALF, INT8 = Precision.FP32, Precision.HALF, Precision.INT8


def assign(scheme, variant, unit=UNIT, **options):
    ctx = CONTEXTS[scheme] if unit is UNIT else context(unit, scheme)
    return AssignPrecision(variant=variant, **options).apply(unit, ctx).plan


def precisions(plan, *layers):
    return [plan.precision_of(layer) for layer in layers]


def reason(plan, layer):
    return plan.layers[layer].because


def test_the_contract_of_every_pass():
    result = check_pass(AssignPrecision(), UNIT, CONTEXTS[TENSORRT])
    assert result.unit is UNIT
    assert quantised(PrecisionPlan.from_dict(result.plan.to_dict())) == quantised(result.plan)


def test_every_computing_node_is_in_the_plan_in_graph_order():
    plan = assign(TENSORRT, Variant.MIX)
    assert list(plan.layers)[:3] == ["stem", "stem_relu", "conv1"]
    assert len(plan.layers) == 15  # all but Flatten, which only moves values
    assert plan.layers["depthwise"].op == "Conv"


def test_the_rules_of_the_mix():
    plan = assign(TENSORRT, Variant.MIX)
    assert plan.default is HALF
    assert reason(plan, "stem") == "first layer: 3 input channels"
    assert reason(plan, "depthwise") == "depthwise: INT8 is padded to 4 channels a group"
    assert reason(plan, "fc") == "last layer: logits"
    assert precisions(plan, "stem", "depthwise", "fc") == [HALF, HALF, HALF]
    conv1 = plan.layers["conv1"]
    assert conv1.precision is INT8
    assert conv1.because == f"{conv1.snr_db:.1f} dB ≥ 20 dB"


def test_followers():
    plan = assign(TENSORRT, Variant.MIX)
    assert reason(plan, "conv1_relu") == "follows conv1"
    assert precisions(plan, "conv1_relu", "stem_relu") == [INT8, HALF]
    assert plan.precision_of("pool") is INT8  # conv3 reads it in INT8
    assert precisions(plan, "join", "mean") == [HALF, HALF]
    quantised_outputs = assign(ONNXRUNTIME, Variant.INT8)
    assert precisions(quantised_outputs, "join", "join_relu", "mean") == [INT8, INT8, INT8]


def test_a_layer_below_the_threshold_stays_float():
    plan = assign(TENSORRT, Variant.MIX, min_snr_db=90.0)
    assert quantised(plan) == ()
    assert reason(plan, "conv1").endswith("dB < 90 dB")


def test_int8_quantises_wherever_possible():
    plan = assign(TENSORRT, Variant.INT8)
    assert plan.default is FP32
    assert precisions(plan, "stem", "depthwise", "fc") == [INT8, INT8, INT8]


@pytest.mark.parametrize(
    ("scheme", "variant", "expected"),
    [
        (TENSORRT, Variant.FP32, FP32),
        (TENSORRT, Variant.HALF, HALF),
        (FLOAT_ONLY, Variant.HALF, FP32),
        (OPENVINO, Variant.HALF, HALF),
    ],
)
def test_float_candidates_have_one_precision(scheme, variant, expected):
    plan = assign(scheme, variant)
    assert {decision.precision for decision in plan.layers.values()} == {expected}


def test_narrow_and_impossible_layers():
    unit = parse(
        """g (float[N,20] x) => (float[N,4] y) {
        [first] a = MatMul(x, w1)
        [scaled] b = Gemm<alpha = 0.5>(a, w2)
        [last] y = Gemm(b, w3)
    }""",
        w1=np.ones((20, 1), np.float32),
        w2=np.ones((1, 16), np.float32),
        w3=np.ones((16, 4), np.float32),
    )
    plan = assign(TENSORRT, Variant.MIX, unit)
    assert reason(plan, "first") == "a matrix with one column: INT8 does not pay"
    assert (
        reason(plan, "scaled")
        == "cannot be quantised: a Gemm with transA, alpha or beta has no INT8 kernel"
    )
    without = replace(TENSORRT, int8_ops=("Conv",))
    assert reason(assign(without, Variant.INT8, unit), "last") == (
        "cannot be quantised: the runtime has no INT8 Gemm"
    )


def test_pins_beat_the_policy_and_a_name_beats_a_glob():
    plan = assign(
        TENSORRT, Variant.MIX, pin={"conv*": FP32, "conv1": INT8, "fc": INT8, "join": FP32}
    )
    assert precisions(plan, "conv1", "conv2", "conv3", "fc", "join") == [
        INT8,
        FP32,
        FP32,
        INT8,
        FP32,
    ]
    assert plan.layers["fc"].pinned
    assert reason(plan, "fc") == "pinned to int8"
    assert plan.layers["conv1"].snr_db is not None


def test_a_pin_holds_in_a_float_candidate_too():
    plan = assign(TENSORRT, Variant.HALF, pin={"conv1": INT8})
    assert quantised(plan) == ("conv1", "conv1_relu")


def test_a_glob_pins_to_int8_what_can_be():
    plan = assign(TENSORRT, Variant.HALF, pin={"conv1*": INT8})
    assert plan.layers["conv1"].pinned
    assert not plan.layers["conv1_relu"].pinned


def test_half_where_the_target_has_none():
    plan = assign(FLOAT_ONLY, Variant.MIX, pin={"conv1": HALF})
    assert plan.precision_of("conv1") is FP32
    assert reason(plan, "conv1") == "pinned to half, and the target has no half type"


def test_one_float_type_for_all_layers():
    plan = assign(OPENVINO, Variant.MIX, pin={"stem": FP32})
    assert plan.default is FP32
    assert plan.precision_of("fc") is FP32
    assert reason(plan, "fc") == (
        "stem is pinned to fp32, and this runtime takes one float type for all layers"
    )
    assert plan.precision_of("conv1") is INT8
    plan = assign(OPENVINO, Variant.INT8, pin={"stem": HALF})
    assert plan.precision_of("stem") is FP32


@pytest.mark.parametrize(
    ("pin", "id", "text"),
    [
        ({"conv_1": FP32}, "unmatched-pin", 'did you mean "conv1"?'),
        ({"*x*": FP32}, "unmatched-pin", "there is"),
        ({"conv*": FP32, "*1": HALF}, "contradictory-pins", "conv*: fp32, *1: half"),
        ({"join": INT8}, "impossible-pin", "only layers with weights"),
        ({"*_relu": INT8}, "impossible-pin", "only layers with weights"),
    ],
)
def test_pins_that_cannot_be_kept_are_recipe_errors(pin, id, text):
    with pytest.raises(RecipeError) as error:
        assign(TENSORRT, Variant.MIX, pin=pin)
    assert error.value.id == id
    assert text in str(error.value)


def test_a_pin_that_another_runtime_could_keep_says_so():
    unit = parse(
        "g (float[N,4] x) => (float[N,4] y) { [only] y = MatMul(x, w) }",
        w=np.eye(4, dtype=np.float32),
    )
    scheme = replace(TENSORRT, int8_ops=("Conv",))
    with pytest.raises(RecipeError, match="the runtime has no INT8 MatMul") as error:
        assign(scheme, Variant.INT8, unit, pin={"only": INT8})
    assert error.value.id == "unsupported-pin"


def test_a_layer_that_nothing_reads_has_no_precision():
    unit = parse(
        """g (float[N,4] x) => (float[N,4] y) {
        [dead] a = MatMul(x, w)
        [alive] y = MatMul(x, w)
    }""",
        w=np.eye(4, dtype=np.float32),
    )
    assert list(assign(TENSORRT, Variant.INT8, unit).layers) == ["alive"]


def test_a_weight_too_large_for_fp16_stays_fp32():
    unit = parse(
        """g (float[N,4] x) => (float[N,4] y) {
        [huge] a = MatMul(x, w)
        [fine] y = MatMul(a, v)
    }""",
        w=np.full((4, 4), 1e5, np.float32),
        v=np.eye(4, dtype=np.float32),
    )
    plan = assign(TENSORRT, Variant.HALF, unit)
    assert precisions(plan, "huge", "fine") == [FP32, HALF]
    assert reason(plan, "huge") == "a constant of 1e+05 overflows fp16"


def edited(scheme, **layers):
    """The plan of all in the float type but `layers`, as a person might have written it."""
    plan = assign(scheme, Variant.HALF)
    decisions = {n: LayerDecision(p, "by hand") for n, p in layers.items()}
    return replace(plan, layers=decisions)


def test_a_given_plan_is_kept_and_the_rest_follows_it():
    plan = assign(TENSORRT, Variant.MIX, given=edited(TENSORRT, conv1=INT8, fc=FP32))
    assert precisions(plan, "conv1", "conv1_relu", "fc") == [INT8, INT8, FP32]
    assert reason(plan, "conv1") == "by hand"
    assert precisions(plan, "stem", "conv2", "join") == [HALF, HALF, HALF]
    assert reason(plan, "conv2") == "the plan's default"
    again = assign(TENSORRT, Variant.MIX, given=plan)
    assert again == replace(plan, layers=again.layers)
    assert quantised(again) == quantised(plan)


def test_a_pin_beats_a_given_plan():
    given = edited(TENSORRT, conv1=INT8)
    plan = assign(TENSORRT, Variant.MIX, given=given, pin={"conv1": HALF})
    assert precisions(plan, "conv1") == [HALF]


def test_a_given_half_is_fp32_where_there_is_no_half_type():
    given = replace(edited(ONNXRUNTIME, conv1=HALF), default=HALF)
    plan = assign(ONNXRUNTIME, Variant.MIX, given=given)
    assert precisions(plan, "conv1", "stem") == [FP32, FP32]


@pytest.mark.parametrize(
    ("change", "id_", "words"),
    [
        ({"model": "sha256:0"}, "another-models-plan", "another model"),
        ({"target": "elsewhere"}, "another-targets-plan", "another target"),
        ({"layers": {"konv1": LayerDecision(INT8, "")}}, "unknown-layer", "conv1"),
        (
            {"layers": {"depthwise_relu": LayerDecision(INT8, "", pinned=True)}},
            "impossible-pin",
            "",
        ),
    ],
)
def test_a_plan_that_does_not_fit(change, id_, words):
    given = replace(edited(TENSORRT, conv1=INT8), **change)
    with pytest.raises(RecipeError) as caught:
        assign(TENSORRT, Variant.MIX, given=given)
    assert caught.value.id == id_
    assert words in str(caught.value)


@pytest.mark.parametrize("scheme", [TENSORRT, ONNXRUNTIME, OPENVINO])
@pytest.mark.parametrize("variant", [Variant.INT8, Variant.MIX])
@pytest.mark.parametrize("pin", [{"conv2": HALF}, {"conv*": FP32, "conv1": HALF}, {"join": HALF}])
def test_a_given_plan_with_pins_is_what_assigning_with_these_pins_gives(scheme, variant, pin):
    known = assign(scheme, variant)
    changed = assign(scheme, variant, given=known, pin=pin)
    anew = assign(scheme, variant, pin=pin)
    assert precisions(changed, *anew.layers) == precisions(anew, *anew.layers)
    assert changed.residual_of("join") is anew.residual_of("join")


def test_a_given_plan_keeps_its_pins():
    known = assign(ONNXRUNTIME, Variant.INT8, pin={"join": FP32})
    changed = assign(ONNXRUNTIME, Variant.INT8, given=known, pin={"conv1": FP32})
    assert precisions(changed, "join", "conv1", "conv2") == [FP32, FP32, INT8]


@pytest.mark.parametrize("variant", list(Variant))
def test_a_layer_that_reads_what_is_made_of_sizes_alone_stays_float(variant):
    """Positions that are embedded: nothing of the samples is in them, so they have no range."""
    unit = parse(
        """g (float[N,4,8] x) => (float[N,8,8] y) {
        [first] a = MatMul(x, w)
        [sizes] s = Shape<start = 2>(x)
        [width] f = Cast<to = 1>(s)
        [row] r = Expand(f, four)
        [positions] p = MatMul(r, v)
        [add] b = Add(a, p)
        [last] y = MatMul(u, b)
    }""",
        w=np.eye(8, dtype=np.float32),
        v=np.eye(4, 8, dtype=np.float32),
        u=np.ones((8, 4), np.float32),
        four=np.array([4, 4]),
    )
    plan = assign(TENSORRT, variant, unit, min_snr_db=-100)
    assert "positions" not in plan.layers
    assert "add" in plan.layers
    again = assign(TENSORRT, variant, unit, given=plan)
    assert again.layers.keys() == plan.layers.keys()
    layers = {layer.name: layer for layer in weighted_layers(read(unit))}
    assert layers["positions"].obstacle == "its input is computed of sizes alone"
