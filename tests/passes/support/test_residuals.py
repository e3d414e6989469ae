from dataclasses import replace

import numpy as np
import pytest
from check_pass import check_pass, constant, equations, parse
from nets import ONNXRUNTIME, TENSORRT, context, residual
from residual_nets import blocks

from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.precision import Precision, ResidualPolicy, Variant
from rtc.passes.quantise.assign_precision import AssignPrecision
from rtc.passes.quantise.insert_qdq import InsertQdq
from rtc.passes.support.onnx_graph import read
from rtc.passes.support.residuals import residuals

UNIT = blocks()
CONTEXTS = {scheme: context(UNIT, scheme) for scheme in (ONNXRUNTIME, TENSORRT)}
POLICIES = {policy.value: policy for policy in ResidualPolicy}
QUANTISE_BOTH, QUANTISE_SKIP = ResidualPolicy.QUANTISE_BOTH, ResidualPolicy.QUANTISE_SKIP
KEEP_HALF, SHARED_SCALE = ResidualPolicy.KEEP_HALF, ResidualPolicy.SHARED_SCALE


def assign(scheme, variant=Variant.INT8, **options):
    return AssignPrecision(variant=variant, **options).apply(UNIT, CONTEXTS[scheme]).plan


def policies(plan):
    return {name: decision.policy for name, decision in plan.residuals.items()}


def inserted(scheme, policy):
    """The graph with that policy on the first Add, and the scheme's own on the second."""
    ctx = replace(CONTEXTS[scheme], plan=assign(scheme, residuals={"join1": policy}))
    return check_pass(InsertQdq(), UNIT, ctx).unit


def add_of(unit, name="j1"):
    return next(line for line in equations(unit) if line.startswith((f"{name} =", f"{name}/")))


def found(text, **weights):
    return [
        (r.name, r.branch.name, r.skip.name, r.ends)
        for r in residuals(read(parse(text, **weights)))
    ]


def test_the_branch_is_the_one_that_the_deeper_convolution_ends():
    first, second = residuals(read(UNIT))
    assert (first.branch.name, first.skip.name, first.ends) == ("b1", "r0", ("b1", "stem"))
    assert second.ends == ("b2", "b1")  # back through the first Add
    assert first.fusable


W = np.ones((4, 4, 1, 1), np.float32)


def test_a_convolution_is_the_branch_even_where_the_other_path_is_longer():
    text = """g (float[N,4,4,4] x) => (float[N,4,4,4] y) {
        [one] a = Conv(x, w)
        [two] b = Conv(a, w)
        [relu] r = Relu(b)
        [short] c = Conv(x, w)
        [join] y = Add(r, c)
    }"""
    assert found(text, w=W) == [("join", "c", "r", ("short", "two"))]


def test_what_is_no_residual():
    text = """g (float[N,4,4,4] x) => (float[N,4,4,4] y) {
        [one] a = Conv(x, w)
        [twice] b = Add(a, a)
        [bias] c = Add(b, k)
        [plus] d = Mul(c, x)
        [mask] s = Shape(d)
        [made] m = ConstantOfShape(s)
        [masked] e = Add(d, m)
        [join] y = Add(x, e)
    }"""
    assert found(text, w=W, k=np.ones((1, 4, 1, 1), np.float32)) == [
        ("join", "e", "x", ("plus", ""))
    ]


@pytest.mark.parametrize(
    ("scheme", "own"),
    [(ONNXRUNTIME, QUANTISE_BOTH), (TENSORRT, QUANTISE_SKIP)],
)
def test_without_pins_every_add_has_the_schemes_own_policy(scheme, own):
    plan = assign(scheme)
    assert policies(plan) == {"join1": own, "join2": own}
    decision = plan.residuals["join1"]
    assert decision.branches == ("b1", "r0")
    seen = CONTEXTS[scheme].statistics
    assert decision.branch_ranges[1] == (0.0, seen["r0"].high)
    assert decision.because.startswith("the runtime's rule: ")


def test_the_pass_counts_policies():
    result = AssignPrecision(variant=Variant.INT8).apply(UNIT, CONTEXTS[TENSORRT])
    assert result.details["residuals"] == {"quantise-skip": 2}


def test_a_float_branch_keeps_the_add_half_and_the_reason_names_it():
    plan = assign(TENSORRT, Variant.MIX)  # the stem is the first layer: half
    assert policies(plan) == {"join1": KEEP_HALF, "join2": QUANTISE_SKIP}
    assert plan.residuals["join1"].because == "its skip ends in stem, which is not INT8"
    assert assign(TENSORRT, Variant.HALF).residuals["join2"].policy is KEEP_HALF


@pytest.mark.parametrize("policy", POLICIES.values(), ids=str)
def test_an_adds_own_precision_follows_its_policy(policy):
    if policy is not QUANTISE_SKIP:
        plan = assign(ONNXRUNTIME, residuals={"join1": policy})
        expected = Precision.FP32 if policy is KEEP_HALF else Precision.INT8
        assert plan.precision_of("join1") is expected
        assert plan.precision_of("join1_relu") is expected
    assert assign(TENSORRT, residuals={"join1": policy}).precision_of("join1") is Precision.FP32


def test_keep_half_quantises_nothing_for_the_add():
    lines = equations(inserted(TENSORRT, KEEP_HALF))
    assert "j1 = Add(b1, r0)" in lines
    assert "j2 = Add(b2, r1/dq)" in lines
    # b1 is INT8 in this scheme only if its output is quantised, and r1 need not be.
    lines = equations(inserted(ONNXRUNTIME, KEEP_HALF))
    assert "j1 = Add(b1/dq, r0/dq)" in lines


def test_kept_in_a_row_the_residual_stream_stays_float():
    plan = assign(ONNXRUNTIME, residuals={"*": KEEP_HALF})
    unit = InsertQdq().apply(UNIT, replace(CONTEXTS[ONNXRUNTIME], plan=plan)).unit
    assert "j2 = Add(b2/dq, r1)" in equations(unit)
    assert "a2 = Conv(r1/dq, a2/weight/dq)" in equations(unit)


def test_quantise_skip_leaves_the_convolution_to_be_fused():
    assert add_of(inserted(TENSORRT, QUANTISE_SKIP)) == "j1 = Add(b1, r0/dq)"


@pytest.mark.parametrize("scheme", [ONNXRUNTIME, TENSORRT])
def test_quantise_both(scheme):
    unit = inserted(scheme, QUANTISE_BOTH)
    assert add_of(unit) == "j1 = Add(b1/dq, r0/dq)"
    assert constant(unit, "b1/scale") != constant(unit, "r0/scale")


@pytest.mark.parametrize("scheme", [ONNXRUNTIME, TENSORRT])
def test_a_shared_scale_is_the_wider_ones_and_zero_points_stay_their_own(scheme):
    unit, apart = inserted(scheme, SHARED_SCALE), inserted(scheme, QUANTISE_BOTH)
    assert add_of(unit) == "j1 = Add(b1/dq, r0/dq)"
    scales = [constant(apart, f"{name}/scale") for name in ("b1", "r0")]
    assert constant(unit, "b1/scale") == constant(unit, "r0/scale")
    np.testing.assert_allclose(constant(unit, "b1/scale"), max(scales), rtol=1e-6)
    assert constant(unit, "r0/zero_point") == 0  # a ReLU's: runtimes fuse it only with 0
    seen = CONTEXTS[scheme].statistics["b1"]
    if scheme is ONNXRUNTIME:
        lowest = -float(constant(unit, "b1/zero_point")) * constant(unit, "b1/scale")
        assert abs(lowest - seen.low) <= constant(unit, "b1/scale")


def test_scales_shared_through_a_tensor_of_two_adds_are_one():
    unit = parse(
        """g (float[N,4,4,4] x) => (float[N,4,4,4] y) {
        [stem] a = Conv(x, w)
        [one] b = Conv(a, w)
        [join1] j = Add(b, a)
        [two] c = Conv(j, w)
        [join2] y = Add(c, a)
    }""",
        w=np.random.default_rng(0).standard_normal((4, 4, 1, 1)).astype(np.float32),
    )
    ctx = context(unit, TENSORRT)
    step = AssignPrecision(variant=Variant.INT8, residuals={"*": SHARED_SCALE})
    ctx = replace(ctx, plan=step.apply(unit, ctx).plan)
    unit = InsertQdq().apply(unit, ctx).unit
    scales = {float(constant(unit, f"{name}/scale")) for name in "abc"}
    assert len(scales) == 1
    assert scales != {float(constant(unit, "j/scale"))}


def test_recalibrated_is_placed_as_the_scheme_has_it():
    recalibrated = ResidualPolicy.RECALIBRATED
    assert add_of(inserted(TENSORRT, recalibrated)) == "j1 = Add(b1, r0/dq)"
    assert add_of(inserted(ONNXRUNTIME, recalibrated)) == "j1 = Add(b1/dq, r0/dq)"


def test_pins_beat_the_rule_and_a_name_beats_a_glob():
    plan = assign(TENSORRT, residuals={"*": KEEP_HALF, "join2": SHARED_SCALE})
    assert policies(plan) == {"join1": KEEP_HALF, "join2": SHARED_SCALE}
    assert plan.residuals["join1"].pinned
    assert plan.residuals["join2"].because == "pinned to shared-scale"


def test_a_pin_waits_for_a_candidate_that_quantises():
    plan = assign(TENSORRT, Variant.MIX, residuals={"join1": SHARED_SCALE})
    decision = plan.residuals["join1"]
    assert decision.policy is KEEP_HALF
    assert decision.pinned
    assert decision.because == (
        "pinned to shared-scale, but its skip ends in stem, which is not INT8"
    )


def test_a_glob_pins_what_can_be():
    plan = assign(TENSORRT, pin={"stem": Precision.HALF}, residuals={"join*": SHARED_SCALE})
    assert policies(plan) == {"join1": KEEP_HALF, "join2": SHARED_SCALE}
    assert not plan.residuals["join1"].pinned


@pytest.mark.parametrize(
    ("scheme", "options", "id", "text"),
    [
        (TENSORRT, {"residuals": {"joint1": KEEP_HALF}}, "unmatched-pin", 'did you mean "join1"?'),
        (TENSORRT, {"residuals": {"b*": KEEP_HALF}}, "unmatched-pin", "matches no residual Add"),
        (
            TENSORRT,
            {"residuals": {"join*": KEEP_HALF, "*1": SHARED_SCALE}},
            "contradictory-pins",
            "join*: keep-half, *1: shared-scale",
        ),
        (
            TENSORRT,
            {"residuals": {"join1": SHARED_SCALE}, "pin": {"stem": Precision.HALF}},
            "impossible-pin",
            "its skip ends in stem, which is not INT8",
        ),
        (
            TENSORRT,
            {
                "residuals": {"j*": SHARED_SCALE},
                "pin": {"b1": Precision.HALF, "b2": Precision.HALF},
            },
            "impossible-pin",
            "its branch ends in b1",
        ),
        (
            ONNXRUNTIME,
            {"residuals": {"join1": SHARED_SCALE}, "pin": {"join1": Precision.FP32}},
            "impossible-pin",
            "the Add itself is pinned to a float type",
        ),
        (
            ONNXRUNTIME,
            {"residuals": {"join1": QUANTISE_SKIP}},
            "unsupported-pin",
            "INT8 only if its output is quantised",
        ),
    ],
)
def test_pins_that_cannot_be_kept_are_recipe_errors(scheme, options, id, text):
    with pytest.raises(RecipeError) as error:
        assign(scheme, **options)
    assert error.value.id == id
    assert error.value.where == "precision.residuals"
    assert text in str(error.value)


def test_a_runtime_without_the_form_still_has_its_float_candidates():
    plan = assign(ONNXRUNTIME, Variant.FP32, residuals={"join1": QUANTISE_SKIP})
    assert plan.residuals["join1"].policy is KEEP_HALF


def test_an_add_pinned_to_float_is_kept_half_where_it_would_be_int8():
    plan = assign(ONNXRUNTIME, pin={"join1": Precision.FP32})
    assert policies(plan) == {"join1": KEEP_HALF, "join2": QUANTISE_BOTH}
    assert plan.residuals["join1"].because == "the Add itself is pinned to a float type"
    assert policies(assign(TENSORRT, pin={"join1": Precision.FP32}))["join1"] is QUANTISE_SKIP


def test_no_convolution_to_fuse_into():
    unit = parse(
        """g (float[N,4,4,4] x) => (float[N,4,4,4] y) {
        [one] a = Conv(x, w)
        [relu1] ra = Relu(a)
        [two] b = Conv(ra, w)
        [relu2] rb = Relu(b)
        [join] y = Add(ra, rb)
    }""",
        w=W,
    )
    ctx = context(unit, TENSORRT)
    plan = AssignPrecision(variant=Variant.INT8).apply(unit, ctx).plan
    assert plan.residuals["join"].because == "no convolution ends at it that it could be fused into"
    own = AssignPrecision(variant=Variant.INT8).apply(unit, context(unit, ONNXRUNTIME)).plan
    assert own.residuals["join"].policy is QUANTISE_BOTH


def test_the_network_of_all_kinds_of_layers():
    ctx = context(residual(), ONNXRUNTIME)
    plan = AssignPrecision(variant=Variant.INT8).apply(residual(), ctx).plan
    assert list(plan.residuals) == ["join"]
