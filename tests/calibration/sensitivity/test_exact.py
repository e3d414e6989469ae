"""The exact engine against brute force: each layer changed by its pass, the whole model run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from check_pass import Samples, parse, random_samples
from nets import TENSORRT, residual
from one_layer_nets import NETS, SCHEMES, ranged, sampled, with_labels

from rtc.calibration.oracle import Oracle
from rtc.calibration.sensitivity import exact
from rtc.compiler.core.data import Preprocess, Split
from rtc.compiler.core.errors import DataError, ModelError
from rtc.compiler.core.precision import LayerDecision, Precision, PrecisionPlan, Variant
from rtc.compiler.measure import accuracy
from rtc.passes.quantise.cast_precision import CastPrecision
from rtc.passes.quantise.insert_qdq import InsertQdq
from rtc.passes.quantise.one_layer import alternatives


def logits_of(proto, split):
    with Oracle(proto) as oracle:
        return next(iter(oracle.run(split.inputs()).values())).astype(np.float64)


def brute_force(unit, layer, precision, ctx):
    """The whole model by a plan that names one layer."""
    decision = {layer: LayerDecision(precision, "alone")}
    plan = PrecisionPlan("", "", Variant.MIX, Precision.FP32, decision)
    step = InsertQdq() if precision is Precision.INT8 else CastPrecision()
    return step.apply(unit, replace(ctx, plan=plan)).unit.onnx.proto


def decibels(true, changed):
    return 10 * np.log10((true**2).sum() / ((changed - true) ** 2).sum())


@pytest.mark.parametrize("scheme", ["onnxruntime", "tensorrt"])
@pytest.mark.parametrize("net", NETS)
def test_it_is_brute_force_without_the_repetition(net, scheme):
    unit = NETS[net]()
    ctx = sampled(unit, SCHEMES[scheme])
    true = logits_of(unit.onnx.proto, ctx.calibration())
    split = with_labels(ctx.calibration(), true.shape[1])
    found = exact(*alternatives(unit, ctx), split)
    assert len(found.rows) >= 6
    for row in found.rows:
        logits = logits_of(brute_force(unit, row.layer, row.precision, ctx), split)
        snr = decibels(true, logits)
        # Past 70 dB an error is a few units of float32's rounding, whose order of sums differs.
        assert row.output_snr_db.value == pytest.approx(snr, abs=0.05 if snr < 70 else 1.0)
        p, q = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (true, logits))
        assert row.kl.value == pytest.approx(
            (p * np.log(p / q)).sum(axis=1).mean(), rel=0.05, abs=1e-7
        )
        agrees = accuracy.agreement(logits, true, "here")
        assert row.agreement.value == agrees.value
        assert row.agreement.low == agrees.low
        drop = accuracy.top1_drop(true, logits, split.labels, "here")
        assert (row.top1_drop.value, row.top1_drop.low) == (drop.value, drop.low)


def test_a_half_type_of_the_whole_runtime_is_asked_about_layer_by_layer():
    unit = residual()
    ctx = sampled(unit, SCHEMES["openvino"])
    found = exact(*alternatives(unit, ctx), ctx.calibration())
    halves = {row.layer: row for row in found.rows if row.precision is Precision.HALF}
    assert set(halves) == {row.layer for row in found.rows if row.precision is Precision.INT8}
    # BF16 keeps 8 bits: inputs, weights and result are each rounded to ±2⁻⁹ at most.
    assert all(45 < row.layer_snr_db < 56 for row in halves.values())


def test_the_cost_counts_what_lies_downstream():
    chain = parse(
        """g (float[N,8] x) => (float[N,4] y) {
        [a] ha = MatMul(x, wa)
        [ra] a = Relu(ha)
        [b] hb = MatMul(a, wb)
        [rb] b = Relu(hb)
        [c] y = MatMul(b, wc)
    }""",
        wa=np.eye(8, 16, dtype=np.float32),
        wb=np.eye(16, dtype=np.float32),
        wc=np.eye(16, 4, dtype=np.float32),
    )
    ctx = sampled(chain, TENSORRT)
    proto, offers = alternatives(chain, ctx)
    quantised = [each for each in offers if each.precision is Precision.INT8]
    whole, work_b, work_c = 8 * 16 + 16 * 16 + 16 * 4, 16 * 16, 16 * 4
    expected = 1 + (whole + (work_b + work_c) + work_c) / whole
    assert exact(proto, quantised, ctx.calibration()).cost.passes == pytest.approx(expected)


def test_branches_beside_a_layer_are_not_run_again():
    unit = NETS["branching"]()
    ctx = sampled(unit, TENSORRT)
    proto, offers = alternatives(unit, ctx)
    work = {"stem": 3 * 9 * 16 * 64, "left": 16 * 9 * 16 * 16, "right": 16 * 8 * 16,
            "gate": 40 * 40, "mix": 40 * 24 * 16, "fc": 384 * 8}  # fmt: skip
    after = {"gate", "mix", "fc"}
    right = next(e for e in offers if e.layer == "right" and e.precision is Precision.HALF)
    expected = 1 + sum(work[name] for name in {"right", *after}) / sum(work.values())
    assert exact(proto, [right], ctx.calibration()).cost.passes == pytest.approx(expected)


def test_batches_do_not_show(monkeypatch):
    unit = residual()
    ctx = sampled(unit, TENSORRT)
    problem = alternatives(unit, ctx)
    whole = exact(*problem, ctx.calibration())
    monkeypatch.setattr("rtc.calibration.sensitivity.shapes._BATCH", 7)
    parts = exact(*problem, ctx.calibration())
    assert parts.samples == whole.samples == 48
    for one, other in zip(whole.rows, parts.rows, strict=True):
        limit = 0.05 if one.output_snr_db.value < 70 else 1.0
        assert one.output_snr_db.value == pytest.approx(other.output_snr_db.value, abs=limit)


def test_a_model_of_a_fixed_batch_is_measured_in_whole_batches():
    weight = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    unit = parse("g (float[4,6] x) => (float[4,4] y) { [fc] y = MatMul(x, w) }", w=weight)
    ctx = sampled(unit, TENSORRT, 10)
    assert exact(*alternatives(unit, ctx), ctx.calibration()).samples == 8


def test_a_nan_in_the_float_model_names_the_layer():
    unit = parse(
        """g (float[N,4] x) => (float[N,4] y) {
        [a] h = MatMul(x, wa)
        [root] s = Sqrt(h)
        [b] y = MatMul(s, wb)
    }""",
        wa=np.eye(4, dtype=np.float32),
        wb=np.eye(4, dtype=np.float32),
    )
    good = Split("good", np.ones((8, 4), np.float32), None, Preprocess())
    bad = Split("bad", np.array([[1, 1, 1, 1], [1, -1, 1, 1]], np.float32), None, Preprocess())
    problem = alternatives(unit, ranged(unit, TENSORRT, Samples(good)))
    with pytest.raises(DataError) as caught:
        exact(*problem, bad)
    assert caught.value.where == "layer root"
    assert "sample 1" in caught.value.seen


def test_a_half_layer_that_overflows_is_the_worst_there_is():
    weight = np.full((4, 3), 1e4, np.float32)
    unit = parse("g (float[N,4] x) => (float[N,3] y) { [fc] y = MatMul(x, w) }", w=weight)
    large = Split("large", np.full((5, 4), 10, np.float32), np.zeros(5, np.int64), Preprocess())
    ctx = ranged(unit, TENSORRT, Samples(large))
    row = exact(*alternatives(unit, ctx), large).of("fc", Precision.HALF)
    assert row.layer_snr_db == row.output_snr_db.value == -120.0
    assert row.agreement.value == 0.0
    assert row.top1_drop.value == 1.0
    assert np.isfinite(row.kl.value)


def test_only_classifiers_have_one():
    unit = parse(
        "g (float[N,3,4,4] x) => (float[N,2,4,4] y) { [c] y = Conv(x, w) }",
        w=np.ones((2, 3, 1, 1), np.float32),
    )
    ctx = sampled(unit, TENSORRT)
    with pytest.raises(ModelError) as caught:
        exact(*alternatives(unit, ctx), ctx.calibration())
    assert caught.value.id == "not-a-classifier"


def test_more_samples_narrow_the_interval():
    unit = residual()
    ctx = ranged(unit, TENSORRT, random_samples(unit, 256))
    problem = alternatives(unit, ctx)
    few, many = (exact(*problem, ctx.calibration().head(count)) for count in (16, 256))
    for one, other in zip(few.rows, many.rows, strict=True):
        wide, narrow = one.output_snr_db, other.output_snr_db
        assert narrow.high - narrow.low < 0.6 * (wide.high - wide.low)
        assert wide.low - 1 < narrow.value < wide.high + 1
