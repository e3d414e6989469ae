"""The fast engine against the exact one, on small networks; the large ones are a benchmark's."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import pytest
from check_pass import Samples, parse, random_samples, unit_of
from digits_net import digits, digits_net
from nets import TENSORRT, residual
from one_layer_nets import SCHEMES, attention, branching, ranged, sampled, with_labels

from rtc.calibration.sensitivity import exact, fast
from rtc.calibration.sensitivity.fast import _blended as blended
from rtc.compiler.core.data import Preprocess, Split
from rtc.compiler.core.errors import DataError, ModelError
from rtc.compiler.core.precision import Precision
from rtc.passes.quantise.one_layer import alternatives


def ranks(values):
    return np.argsort(np.argsort(values))


NETS = {"residual": residual, "branching": partial(branching, pool_last=False)}


@pytest.fixture(scope="module", params=[(n, s) for n in NETS for s in SCHEMES], ids="-".join)
def both(request):
    net, scheme = request.param
    unit = NETS[net]()
    ctx = ranged(unit, SCHEMES[scheme], random_samples(unit, 128))
    problem = alternatives(unit, ctx)
    split = with_labels(ctx.calibration(), 8)
    return exact(*problem, split), fast(*problem, split, seed=1)


def test_it_ranks_layers_as_the_exact_engine_does(both):
    """Spearman's correlation: Pearson's, of the ranks."""
    true, found = both
    for figure in (lambda row: row.output_snr_db.value, lambda row: row.kl.value):
        pair = [ranks([figure(row) for row in each.rows]) for each in (true, found)]
        assert np.corrcoef(*pair)[0, 1] >= 0.8


def test_the_noise_at_the_output_is_found_within_two_decibels(both):
    true, found = both
    off = [
        one.output_snr_db.value - other.output_snr_db.value
        for one, other in zip(true.rows, found.rows, strict=True)
    ]
    assert np.median(np.abs(off)) < 1.0
    assert np.abs(off).max() < 3.0


def test_the_layers_own_noise_is_measured(both):
    true, found = both
    for one, other in zip(true.rows, found.rows, strict=True):
        assert (one.layer, one.precision) == (other.layer, other.precision)
        assert one.layer_snr_db == pytest.approx(other.layer_snr_db, abs=0.05)


def test_it_takes_six_passes_at_most_for_two_precisions(both):
    _, found = both
    kinds = {row.precision for row in found.rows}
    # One for the float model, one for each precision, and three back that stop at the first layer.
    assert 3 < found.cost.passes < 4 + len(kinds)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_attention_whose_windows_stand_on_the_samples_axis(scheme):
    """Shapes are computed as it runs, and its products of activations cost two passes back."""
    unit = attention()
    ctx = ranged(unit, SCHEMES[scheme], random_samples(unit, 128))
    problem = alternatives(unit, ctx)
    split = with_labels(ctx.calibration(), 8)
    true, found = exact(*problem, split), fast(*problem, split, seed=1)
    off = [
        one.output_snr_db.value - other.output_snr_db.value
        for one, other in zip(true.rows, found.rows, strict=True)
    ]
    assert np.median(np.abs(off)) < 0.6
    assert np.abs(off).max() < 5.0
    assert found.cost.passes < 8
    for one, other in zip(true.rows, found.rows, strict=True):
        assert one.layer_snr_db == pytest.approx(other.layer_snr_db, abs=0.05)


def test_it_says_which_samples_change_their_class():
    """Real digits, in a range far too wide: some do."""
    data = digits()
    unit = unit_of(digits_net(data.train))
    ctx = ranged(unit, TENSORRT, data)
    ranges = {
        name: replace(seen, low=8 * seen.low, high=8 * seen.high, limit=None)
        for name, seen in ctx.statistics.items()
    }
    problem = alternatives(unit, replace(ctx, statistics=ranges))
    true, found = exact(*problem, data.test), fast(*problem, data.test)
    wide = [row for row in true.rows if row.precision is Precision.INT8]
    assert min(row.agreement.value for row in wide) < 0.97
    for row in true.rows:
        told = found.of(row.layer, row.precision)
        assert told.agreement.value == pytest.approx(row.agreement.value, abs=0.02)
        assert told.top1_drop.value == pytest.approx(row.top1_drop.value, abs=0.02)


def test_a_seed_decides_all():
    unit = NETS["residual"]()
    ctx = sampled(unit, TENSORRT)
    problem = alternatives(unit, ctx)
    one, same, other = (fast(*problem, ctx.calibration(), seed=seed) for seed in (3, 3, 4))
    assert one.rows == same.rows
    assert one.rows != other.rows


def test_a_nan_in_the_float_model_names_the_layer():
    unit = parse(
        """g (float[N,4] x) => (float[N,4] y) {
        [a] h = MatMul(x, wa)
        [relu] r = Elu(h)
        [b] y = MatMul(r, wb)
    }""",
        wa=np.eye(4, dtype=np.float32) * np.float32(1e18),
        wb=np.eye(4, dtype=np.float32),
    )
    good = Split("good", np.ones((8, 4), np.float32), None, Preprocess())
    bad = Split("bad", np.array([[1, 1, 1, 1], [1, 1e30, 1, 1]], np.float32), None, Preprocess())
    problem = alternatives(unit, ranged(unit, SCHEMES["openvino"], Samples(good)))
    with pytest.raises(DataError) as caught:
        fast(*problem, bad)
    assert caught.value.where == "layer a"
    assert "sample 1" in caught.value.seen


@pytest.mark.parametrize("engine", [exact, fast])
def test_time_that_is_over_ends_it_after_the_first_batch(engine):
    unit = residual()
    ctx = ranged(unit, TENSORRT, random_samples(unit, 100))
    problem, split = alternatives(unit, ctx), ctx.calibration()
    whole, cut = engine(*problem, split), engine(*problem, split, within_s=0.0)
    assert whole.samples == 100
    assert cut.samples == {fast: 32, exact: 4}[engine]
    assert len(cut.rows) == len(whole.rows)


POOLED = """<ir_version: 10, opset_import: ["" : {opset}]>
g (float[N,3,8,8] x) => (float[N,5] y) {{
    [conv] a = Conv<pads = [1,1,1,1]>(x, w)
    [pool] p = {pool}(a)
    [mean] m = GlobalAveragePool(p)
    [flat] f = Flatten(m)
    [fc] y = Gemm(f, v)
}}"""


def pooled(opset, pool):
    model = onnx.parser.parse_model(POOLED.format(opset=opset, pool=pool))
    draw = np.random.default_rng(0)
    for name, shape in (("w", (4, 3, 3, 3)), ("v", (4, 5))):
        values = draw.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return unit_of(model.SerializeToString())


@pytest.mark.parametrize(
    ("opset", "pool", "knows"),
    [
        (17, "MaxPool<kernel_shape = [3,3], strides = [2,2]>", True),
        (13, "MaxPool<kernel_shape = [3,3], strides = [2,2]>", False),
        (15, "MaxPool<kernel_shape = [2,2], strides = [2,2]>", False),
        (20, "AveragePool<kernel_shape = [2,2], strides = [2,2]>", True),
        (20, 'AveragePool<kernel_shape = [3,3], strides = [2,2], auto_pad = "SAME_UPPER">', True),
        (20, "AveragePool<kernel_shape = [2,2], dilations = [2,2]>", True),
        (20, "MeanVarianceNormalization", False),
    ],
)
def test_what_it_has_no_gradient_of_it_refuses(opset, pool, knows):
    unit = pooled(opset, pool)
    ctx = ranged(unit, SCHEMES["onnxruntime"], random_samples(unit, 16))
    problem = alternatives(unit, ctx)
    if knows:
        assert len(fast(*problem, ctx.calibration()).rows) == 2
        return
    with pytest.raises(ModelError) as caught:
        fast(*problem, ctx.calibration())
    assert caught.value.id == "no-gradient"
    assert len(exact(*problem, ctx.calibration()).rows) == 2


def two_estimates(bias_db: float, count: int = 64):
    """Of 40 layers' figures: one off by a bias of each layer's own, and one that varies (χ²)."""
    random = np.random.default_rng(0)
    true = 10 ** random.uniform(-6, -3, (40, 2, 1))
    off = 10 ** (random.normal(0, bias_db / 10, true.shape))
    return true, np.repeat(true * off, count, -1), true * random.chisquare(1, (40, 2, count))


def error_db(true, estimate):
    means = [each.mean(axis=-1) for each in (true, estimate)]
    return float(np.sqrt(np.mean((10 * np.log10(means[1] / means[0])) ** 2)))


@pytest.mark.parametrize("bias_db", [0.1, 1.0, 3.0])
def test_the_blend_is_about_as_good_as_the_better_of_its_two_estimates(bias_db):
    true, apart, whole = two_estimates(bias_db)
    found = error_db(true, blended([Precision.INT8] * 40, apart, whole))
    both = error_db(true, apart), error_db(true, whole)
    assert found < min(max(both), min(both) + 0.25)


def test_each_precision_has_its_own_blend():
    _, apart, whole = two_estimates(0.05)
    biased = two_estimates(3.0)[1]
    kinds = [Precision.INT8] * 40 + [Precision.HALF] * 40
    found = blended(kinds, np.concatenate([apart, biased]), np.concatenate([whole, whole]))
    assert error_db(apart, found[:40]) < 0.4 * error_db(apart, whole)
    assert error_db(whole, found[40:]) < 0.4 * error_db(apart, whole)


def test_a_blend_takes_what_is_zero_or_not_finite_as_it_is():
    _, apart, whole = two_estimates(1.0)
    apart[0], whole[0] = 0.0, 0.0
    apart[1], whole[1] = np.inf, np.inf
    found = blended([Precision.INT8] * 40, apart, whole)
    assert not found[0].any()
    assert not np.isfinite(found[1]).any()
    assert np.isfinite(found[2:]).all()


def test_a_few_samples_do_not_tell_of_variance():
    _, apart, whole = two_estimates(3.0, 15)
    np.testing.assert_array_equal(blended([Precision.INT8] * 40, apart, whole), apart)
    _, apart, whole = two_estimates(3.0, 16)
    assert error_db(apart, blended([Precision.INT8] * 40, apart, whole)) > 1.0
