import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtc.calibration.observers import OBSERVERS, Percentile, make_observer
from rtc.compiler.core.errors import RecipeError


def observe(kind, *batches):
    observer = make_observer(kind)
    for batch in batches:
        observer.update(np.asarray(batch, np.float32))
    return observer.result(kind)


def test_minmax_sees_the_extremes_of_all_batches():
    seen = observe("minmax", [[1.0], [2.0]], [[-3.0]], [[0.5]])
    assert (seen.low, seen.high, seen.samples) == (-3.0, 2.0, 4)
    assert (seen.seen_low, seen.seen_high, seen.kind) == (-3.0, 2.0, "minmax")


@pytest.mark.parametrize("kind", sorted(OBSERVERS))
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
    observer = Percentile()
    for scale in scales:
        observer.update(((random.standard_normal((4, 25)) + shift) * scale).astype(np.float32))
    assert observer._counts.sum() == 100 * len(scales)
    seen = observer.result("percentile")
    assert seen.seen_low <= seen.seen_high
    assert min(seen.seen_low, 0) <= seen.low <= seen.high <= max(seen.seen_high, 0, 1)


def test_memory_does_not_grow():
    observer = Percentile()
    before = observer._counts.nbytes
    for scale in (1, 10, 1000):
        observer.update(np.full((100, 100), scale, np.float32))
    assert observer._counts.nbytes == before


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
    assert error.value.id == "no-observer"
