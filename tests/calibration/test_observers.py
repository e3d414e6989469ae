import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtc.calibration import histogram
from rtc.calibration.clipping import squared_error
from rtc.calibration.histogram import Histogram
from rtc.calibration.observers import OBSERVERS, Percentile, make_observer
from rtc.calibration.quantise import activation_parameters
from rtc.compiler.core.errors import RecipeError


@pytest.fixture
def small_pieces(monkeypatch):
    """Batches are taken in pieces of 1,000 values."""
    monkeypatch.setattr(histogram, "_CHUNK", 1000)
    return 1000


def observe(kind, *batches):
    observer = make_observer(kind)
    for batch in batches:
        observer.update(np.asarray(batch, np.float32))
    return observer.result(kind)


def test_minmax_sees_the_extremes_of_all_batches():
    seen = observe("minmax", [[1.0], [2.0]], [[-3.0]], [[0.5]])
    assert (seen.low, seen.high, seen.samples) == (-3.0, 2.0, 4)
    assert (seen.seen_low, seen.seen_high, seen.kind) == (-3.0, 2.0, "minmax")


@pytest.mark.parametrize("kind", sorted(OBSERVERS.own))
def test_a_range_holds_zero_and_is_never_empty(kind):
    above = observe(kind, [[2.0, 3.0]])
    assert above.low == 0.0
    assert above.high == pytest.approx(3.0, rel=1e-3)
    nothing = observe(kind, [[0.0, 0.0]])
    assert nothing.low < nothing.high
    constant = observe(kind, [[-5.0]], [[-5.0]])
    assert constant.low == pytest.approx(-5.0)
    assert constant.high == 0.0


@pytest.mark.parametrize("percent", [99.0, 99.9, 99.99])
def test_percentile_agrees_with_numpy(percent):
    values = np.random.default_rng(5).standard_normal((40, 5000)).astype(np.float32)
    seen = observe(f"percentile:{percent}", *np.split(values, 8))
    low, high = np.percentile(values, [100 - percent, percent])
    bin_width = (seen.seen_high - seen.seen_low) / 2048
    assert seen.low == pytest.approx(low, abs=2 * bin_width)
    assert seen.high == pytest.approx(high, abs=2 * bin_width)


def test_percentile_clips_an_outlier_that_minmax_keeps():
    values = np.random.default_rng(1).random((100, 1000)).astype(np.float32)
    values[17, 3] = 1000.0
    batches = np.split(values, 10)
    assert observe("minmax", *batches).high == 1000.0
    assert observe("percentile:99.9", *batches).high < 2.0


@settings(max_examples=50, deadline=None)
@given(
    scales=st.lists(st.floats(1e-20, 1e20), min_size=1, max_size=6),
    shift=st.floats(-100, 100),
)
def test_histogram_keeps_every_count_however_far_it_is_stretched(scales, shift):
    random = np.random.default_rng(0)
    histogram, observer = Histogram(), Percentile()
    for scale in scales:
        values = ((random.standard_normal((4, 25)) + shift) * scale).astype(np.float32)
        histogram.add(values, float(values.min()), float(values.max()))
        observer.update(values)
    assert histogram.counts.sum() == 100 * len(scales)
    seen = observer.result("percentile")
    assert seen.seen_low <= seen.seen_high
    assert min(seen.seen_low, 0) <= seen.low <= seen.high <= max(seen.seen_high, 0, 1)


def test_percentile_counts_the_tails_that_grow_after_the_first_batch():
    values = np.random.default_rng(4).standard_normal((40, 5000)).astype(np.float32)
    values[20:] *= 3
    seen = observe("percentile:99.9", *np.split(values, 8))
    low, high = np.percentile(values, [0.1, 99.9])
    assert (seen.low, seen.high) == pytest.approx((low, high), rel=5e-3)


def test_percentile_is_never_narrower_than_asked_for():
    values = np.random.default_rng(4).standard_normal((200, 500)).astype(np.float32)
    values[:5] *= 100  # the first batch's tail begins where no later value comes
    seen = observe("percentile:99", *np.split(values, 40))
    low, high = np.percentile(values, [1, 99])
    assert seen.low < low
    assert seen.high > high


def test_the_moving_average_weighs_each_sample_alike():
    values = np.array([[1.0, -1.0]] * 9 + [[101.0, -1.0]], np.float32)
    whole, apart = observe("moving-average", values), observe("moving-average", *values[:, None])
    assert (whole.low, whole.high) == (apart.low, apart.high) == (-1.0, pytest.approx(11.0))
    assert whole.seen_high == 101.0


def heavy_tailed(seed=3):
    return np.random.default_rng(seed).standard_t(3, (64, 4000)).astype(np.float32)


def actual_error(values, seen, kind):
    """The mean squared error of INT8, with the parameters that go into the graph."""
    given = activation_parameters(seen, kind)
    limits = (0, 255) if kind == "uint8" else (-128, 127)
    steps = np.clip(np.rint(values / given.scale) + given.zero_point, *limits)
    return float(np.mean(((steps - given.zero_point) * given.scale - values) ** 2))


@pytest.mark.parametrize("scheme", ["uint8", "int8"])
@pytest.mark.parametrize("shape", [lambda x: x, np.abs, lambda x: np.maximum(x, 0), np.tanh])
def test_mse_is_as_good_as_any_range_tried_by_brute_force(shape, scheme):
    values = shape(heavy_tailed()).astype(np.float32)
    seen = observe("mse", *np.split(values, 8))
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    best = min(
        actual_error(values, replace(seen, low=low * f, high=high * f, limit=None), scheme)
        for f in np.linspace(1.0, 0.02, 99)
    )
    assert actual_error(values, seen, scheme) <= 1.05 * best


def test_the_histograms_error_is_the_values_own():
    values = heavy_tailed()
    histogram = Histogram()
    histogram.add(values, float(values.min()), float(values.max()))
    seen = replace(observe("minmax", values), low=-6.0, high=9.0)
    expected = actual_error(values, seen, "uint8")
    assert squared_error(*histogram.occupied(), (-6.0, 9.0), 255) == pytest.approx(
        expected, rel=0.02
    )


@pytest.mark.parametrize("scheme", ["uint8", "int8"])
def test_entropy_clips_outliers_and_keeps_what_is_uniform(scheme):
    values = np.random.default_rng(1).random((100, 1000)).astype(np.float32)
    even = observe("entropy", *np.split(values, 10))
    assert even.high > 0.95
    values[17, 3] = 8.0
    odd = observe("entropy", *np.split(values, 10))
    assert odd.high == pytest.approx(1.0, abs=0.1)
    assert odd.limit == pytest.approx(1.0, abs=0.1)
    assert float(activation_parameters(odd, scheme).scale) < 8.0 / 255 / 2


def migacz(values, bins=2048, levels=128):
    """The threshold by the pseudo-code of the talk, bin 0 as its neighbour: a slow oracle."""
    counts, edges = np.histogram(values, bins, range=(0, values.max()))
    counts[0] = counts[1]
    losses = []
    ends = range(levels, bins + 1, 16)
    for end in ends:
        reference = counts[:end].astype(float)
        reference[-1] += counts[end:].sum()
        quantised = np.zeros(end)
        for part in np.array_split(np.arange(end), levels):
            full = part[reference[part] > 0]
            if len(full):
                quantised[full] = counts[part].sum() / len(full)
        p, q = reference / reference.sum(), quantised / quantised.sum()
        both = p > 0
        losses.append(np.sum(p[both] * np.log(p[both] / np.maximum(q[both], 1e-12))))
    return edges[ends[int(np.argmin(losses))]]


@pytest.mark.parametrize("power", [1.5, 2.0])
def test_entropy_is_nvidias(power):
    random = np.random.default_rng(3)
    values = np.maximum(random.laplace(size=(64, 4000)), 0).astype(np.float32) ** power
    seen = observe("entropy", *np.split(values, 8))
    assert seen.limit == pytest.approx(migacz(values), rel=0.25)
    assert seen.limit < 0.9 * seen.seen_high


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.random.default_rng(0).random((50, 400)), "auto: minmax"),
        (heavy_tailed(), "auto: mse"),
    ],
)
def test_auto_takes_the_simplest_of_the_least_error(values, kind):
    batches = np.split(values.astype(np.float32), 2)
    seen = observe("auto", *batches)
    assert seen.kind == kind
    others = [observe(each, *batches) for each in ("minmax", "percentile", "entropy", "mse")]
    for scheme in ("uint8", "int8"):
        least = min(actual_error(values, each, scheme) for each in others)
        assert actual_error(values, seen, scheme) <= 1.03 * least


@pytest.mark.parametrize("kind", sorted(OBSERVERS.own))
def test_memory_does_not_grow(kind):
    observer = make_observer(kind)
    random = np.random.default_rng(0)
    sizes = []
    for scale in (1, 1, 10, 1000, 1000):
        observer.update((random.standard_normal((100, 100)) * scale).astype(np.float32))
        sizes.append(len(pickle.dumps(observer)))
    assert max(sizes[1:]) < sizes[0] + 1000


@pytest.mark.parametrize("kind", sorted(OBSERVERS.own))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_batch_that_is_not_finite_is_refused(kind, value, small_pieces):
    bad = np.ones((2, 3 * small_pieces), np.float32)
    bad[1, -1] = value  # in the last piece
    assert not make_observer(kind).update(bad)
    observer = make_observer(kind)
    assert observer.update(np.ones_like(bad))
    assert not observer.update(bad)


@pytest.mark.parametrize("kind", sorted(OBSERVERS.own))
def test_a_batch_in_pieces_is_one_batch(kind, monkeypatch):
    random = np.random.default_rng(2)
    batches = (random.standard_normal((3, 8, 4001)) * [[[1]], [[3]], [[2]]]).astype(np.float32)
    whole = observe(kind, *batches)
    monkeypatch.setattr(histogram, "_CHUNK", 1000)  # not a divisor of what comes
    pieces = observe(kind, *batches)
    assert (pieces.seen_low, pieces.seen_high) == (batches.min(), batches.max())
    assert pieces.samples == whole.samples == 24
    for scheme in ("uint8", "int8"):
        of_both = [actual_error(batches.reshape(24, -1), each, scheme) for each in (pieces, whole)]
        assert of_both[0] == pytest.approx(of_both[1], rel=0.1)


def test_a_histogram_counts_every_value_in_its_bin_whatever_the_pieces(monkeypatch):
    monkeypatch.setattr(histogram, "_CHUNK", 1001)
    values = np.random.default_rng(3).random(5000, np.float32)
    counted = Histogram()
    counted.add(values, float(values.min()), float(values.max()))
    edges = counted.start + counted.width * np.arange(Histogram.BINS + 1)
    expected, _ = np.histogram(values.astype(np.float64), edges)
    assert np.abs(counted.counts - expected).sum() <= 4  # on an edge, either bin
    assert counted.counts.sum() == len(values)


@pytest.mark.parametrize(
    ("kind", "fix"),
    [
        ("percentil", 'did you mean "percentile"?'),
        ("percentile:20", ""),
        ("percentile:nan", ""),
        ("percentile:x", ""),
        ("minmax:3", ""),
    ],
)
def test_unknown_observers_are_recipe_errors(kind, fix):
    with pytest.raises(RecipeError) as error:
        make_observer(kind)
    assert error.value.fix == fix
    assert error.value.id == "unknown-observer"
