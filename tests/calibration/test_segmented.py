from dataclasses import replace

import numpy as np
import pytest
from check_pass import parse

from rtc.calibration.observers import make_observer
from rtc.calibration.quantise import activation_parameters
from rtc.calibration.segmented import matched_ranges, matched_ranges_beside
from rtc.calibration.sensitivity.alternative import Alternative
from rtc.compiler.core.data import Preprocess, Split
from rtc.compiler.core.precision import Precision

MODEL = "g (float[N,64] x) => (float[N,64] y) {{ [first] a = Identity(x) [last] y = {}(a) }}"


def model(op="Identity"):
    return parse(MODEL.format(op)).onnx.proto


def clipped(low, high):
    text = f"""g (float[N,64] x) => (float[N,64] y)
    <float low = {{{low}}}, float high = {{{high}}}> {{
        [first] a = Clip(x, low, high)
        [last] y = Identity(a)
    }}"""
    return parse(text).onnx.proto


def samples(seed=0, count=64):
    values = np.random.default_rng(seed).standard_normal((count, 64)).astype(np.float32)
    return Split("some", values, None, Preprocess())


def plain(split, kind="minmax"):
    observer = make_observer(kind)
    observer.update(split.inputs())
    return {"a": observer.result(kind)}


def matched(quantised, split, kind="minmax"):
    return matched_ranges(model(), quantised, {"a": "a"}, plain(split, kind), split)["a"]


def squared_error(seen, got, wanted, activation):
    grid = activation_parameters(seen, activation)
    info = np.iinfo(grid.zero_point.dtype)
    zero = float(grid.zero_point)
    integers = np.clip(np.rint(got / grid.scale) + zero, info.min, info.max)
    return float(np.square((integers - zero) * grid.scale - wanted).mean())


def test_where_nothing_was_quantised_it_is_the_range_of_least_squares():
    split = samples(count=512)
    found, least = matched(model(), split), plain(split, "mse")["a"]
    values = split.inputs()
    for activation in ("uint8", "int8"):
        errors = [squared_error(each, values, values, activation) for each in (found, least)]
        assert errors[0] <= 1.02 * errors[1]
    assert found.kind == "segmented minmax"
    assert found.samples == 512


def test_what_was_clipped_before_is_not_clipped_again():
    split = samples(count=512)
    observer = make_observer("percentile:98")
    observer.update(np.clip(split.inputs(), -1.5, 1.5))
    found = matched(clipped(-1.5, 1.5), split)
    assert found.low == pytest.approx(-1.5, abs=0.01)
    assert found.high == pytest.approx(1.5, abs=0.01)


@pytest.mark.parametrize("activation", ["uint8", "int8"])
def test_it_comes_closer_to_the_float_model_than_the_plain_range(activation):
    split = samples(count=512)
    wanted = split.inputs()
    got = np.clip(wanted, -2.0, 1.0)
    found = matched(clipped(-2.0, 1.0), split)
    before = squared_error(plain(split)["a"], got, wanted, activation)
    assert squared_error(found, got, wanted, activation) < before


def test_order_and_batches_do_not_matter():
    split = samples(count=40)
    turned = Split("turned", split.raw[::-1].copy(), None, Preprocess())
    first, second = matched(clipped(-1, 1), split), matched(clipped(-1, 1), turned)
    assert (first.low, first.high, first.limit) == pytest.approx(
        (second.low, second.high, second.limit)
    )


def test_a_tensor_of_zeros_keeps_its_range():
    split = Split("zeros", np.zeros((4, 64), np.float32), None, Preprocess())
    assert matched_ranges(model(), model(), {"a": "a"}, plain(split), split) == {}


def test_samples_that_do_not_fill_a_fixed_batch_are_left_out():
    proto = parse(MODEL.format("Identity").replace("[N,", "[8,")).onnx.proto
    changes = {Alternative("first", Precision.INT8, proto): {"a": "a"}}
    split = samples(count=20)
    found = matched_ranges_beside(proto, changes, plain(split), split)
    whole = replace(split, raw=split.raw[:16])
    assert found == matched_ranges_beside(proto, changes, plain(split), whole)
    assert found["first"]["a"].samples == 16
