from dataclasses import replace

import numpy as np
import pytest
from check_pass import parse
from nets import ONNXRUNTIME, TENSORRT, planned
from one_layer_nets import with_labels
from residual_nets import blocks

from rtc.calibration.effect import output_snr_db
from rtc.compiler.core.precision import LayerDecision, Precision, ResidualPolicy, Variant
from rtc.passes.quantise.insert_qdq import InsertQdq
from rtc.passes.quantise.residual_ledger import residual_ledger
from rtc.passes.quantise.residual_policy import own_policy

UNIT = blocks()
ALL = set(ResidualPolicy)
SKIP, BOTH = ResidualPolicy.QUANTISE_SKIP, ResidualPolicy.QUANTISE_BOTH
ANEW = ResidualPolicy.RECALIBRATED
HALF, SHARED = ResidualPolicy.KEEP_HALF, ResidualPolicy.SHARED_SCALE
INT8 = LayerDecision(Precision.INT8, "here")


def ledger(scheme, variant=Variant.INT8, unit=UNIT, **options):
    ctx = planned(unit, scheme, variant, **options)
    return ctx, residual_ledger(unit, ctx, with_labels(ctx.data.test, 10))


def by_policy(row):
    return {each.policy: each for each in row.policies}


def test_a_row_for_each_add_with_its_branches_and_the_choice():
    ctx, rows = ledger(TENSORRT, residuals={"join2": SHARED})
    assert [row.add for row in rows] == ["join1", "join2"]
    assert [row.decision for row in rows] == list(ctx.plan.residuals.values())
    assert rows[1].decision.policy is SHARED
    for row in rows:
        assert set(by_policy(row)) == ALL
        assert row.left_out == {}
        for each in row.policies:
            assert each.output_snr_db.low <= each.output_snr_db.value <= each.output_snr_db.high
            assert each.top1_drop is not None


def test_what_is_quantised_more_loses_more_at_the_add():
    _, rows = ledger(TENSORRT)
    for row in rows:
        found = {policy: each.add_snr_db for policy, each in by_policy(row).items()}
        assert found[HALF] > found[SKIP] > found[BOTH]
        assert 20 < found[SHARED] < found[SKIP]


@pytest.mark.parametrize(("scheme", "policy"), [(TENSORRT, SKIP), (ONNXRUNTIME, SHARED)])
def test_the_figures_are_those_of_the_graph_that_a_plan_gives(scheme, policy):
    ctx, rows = ledger(scheme)
    integer = ["b2", "b1"] + ["join2"] * scheme.quantise_outputs
    decision = replace(ctx.plan.residuals["join2"], policy=policy)
    plan = replace(ctx.plan, layers=dict.fromkeys(integer, INT8), residuals={"join2": decision})
    changed = InsertQdq().apply(UNIT, replace(ctx, plan=plan)).unit
    wanted = output_snr_db(UNIT.onnx.proto, changed.onnx.proto, ctx.data.test)
    found = by_policy(rows[1])[policy].output_snr_db.value
    assert found == pytest.approx(wanted, abs=1e-3)


def test_a_policy_that_the_scheme_cannot_express_is_left_out_with_the_reason():
    _, rows = ledger(ONNXRUNTIME)
    assert set(by_policy(rows[0])) == ALL - {SKIP}
    assert rows[0].left_out == {
        SKIP: "in this runtime a convolution is INT8 only if its output is quantised"
    }


def test_an_add_that_no_plan_could_quantise_has_reasons_alone():
    unit = parse(
        """g (float[N,4,4,4] x) => (float[N,64] y) {
        [one] a = Conv(x, w)
        [relu] r = Relu(a)
        [two] b = Conv(r, w)
        [join] j = Add(b, x)
        [flat] y = Flatten(j)
    }""",
        w=np.random.default_rng(0).standard_normal((4, 4, 1, 1)).astype(np.float32),
    )
    _, (row,) = ledger(TENSORRT, unit=unit)
    assert row.policies == ()
    assert row.left_out == dict.fromkeys(ALL, "its skip ends in the input, which is not INT8")


def test_a_float_plan_has_a_ledger_too():
    _, rows = ledger(TENSORRT, Variant.HALF)
    assert [row.decision.policy for row in rows] == [HALF, HALF]
    assert set(by_policy(rows[0])) == ALL


@pytest.mark.parametrize("scheme", [TENSORRT, ONNXRUNTIME])
def test_ranges_around_an_add_are_taken_anew_beside_quantised_branches(scheme):
    ctx, rows = ledger(scheme)
    for row in rows:
        ranges = row.recalibrated
        assert set(row.decision.branches) & ranges.keys()
        assert all(each.kind.startswith("segmented ") for each in ranges.values())
        assert all(each.high > 0 for each in ranges.values())
        assert ranges != {name: ctx.statistics[name] for name in ranges}
    plain, anew = (by_policy(rows[1])[p].output_snr_db.value for p in (own_policy(scheme), ANEW))
    assert anew > plain - 1.0  # they were chosen for the same samples
