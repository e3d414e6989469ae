from dataclasses import replace

import numpy as np
import pytest
from check_pass import check_pass, constant, parse
from hostile import digits_unit, int8_snr, planned_on_digits, quantised
from nets import ONNXRUNTIME, TENSORRT, planned, residual

from rtc.compiler.core.precision import Variant
from rtc.passes.repair.adaround import Adaround

STEP = Adaround(below_snr_db=120)
PER_TENSOR = replace(TENSORRT, per_channel=False)


@pytest.mark.parametrize("scheme", [ONNXRUNTIME, PER_TENSOR], ids=["per channel", "per tensor"])
def test_the_stored_integers_are_the_learned_ones(scheme):
    unit = residual()
    ctx = planned(unit, scheme, Variant.INT8)
    result = check_pass(STEP, unit, ctx)
    before, after = quantised(unit, ctx), quantised(result.unit, ctx)
    moved = 0
    for layer, (low, high) in result.details["layers"].items():
        if high == low:
            continue
        old, new = (constant(each, f"{layer}/weight/q") for each in (before, after))
        scales = [constant(each, f"{layer}/weight/scale") for each in (before, after)]
        np.testing.assert_allclose(scales[1], scales[0], rtol=2e-7)
        along = (-1, *[1] * (old.ndim - 1)) if scales[0].ndim else ()
        chosen = constant(result.unit, f"{layer}/weight") / scales[0].reshape(along)
        np.testing.assert_allclose(chosen, new, atol=1e-4)
        assert np.abs(new.astype(int) - old.astype(int)).max() == 1  # the other neighbour
        moved += int((new != old).sum())
    assert moved > 100


def test_real_digits_not_seen_are_nearer_than_by_nearest_rounding():
    net = digits_unit()
    ctx = planned_on_digits(net, PER_TENSOR)
    result = check_pass(STEP, net, ctx)
    for before, after in result.details["layers"].values():
        assert after > before + 2
    before, after = result.details["snr_db"]
    assert after > before + 1
    assert int8_snr(net, result.unit, ctx) > int8_snr(net, net, ctx) + 1  # on the test digits


def test_layers_that_are_near_enough_are_left():
    net = digits_unit()
    ctx = planned_on_digits(net)
    result = check_pass(Adaround(below_snr_db=10), net, ctx)
    assert not result.modified
    assert result.summary == "no layer's rounding is better learned"
    assert all(reason.endswith("dB ≥ 10 dB") for reason in result.details["left"].values())


def test_dead_channels_transposed_convolutions_and_shared_weights():
    random = np.random.default_rng(2)
    w1 = random.standard_normal((8, 4, 3, 3)).astype(np.float32)
    w1[3] = 0
    unit = parse(
        """g (float[N,4,8,8] x) => (float[N,6] y) {
        [one] a = Conv<dilations = [2,2], strides = [2,1], pads = [2,1,2,1]>(x, w1)
        [relu] r = Relu(a)
        [up] u = ConvTranspose(r, w2)
        [mean] g = GlobalAveragePool(u)
        [flat] f = Flatten(g)
        [fc1] h = MatMul(f, w3)
        [fc2] y = MatMul(h, w3)
    }""",
        w1=w1,
        w2=random.standard_normal((8, 6, 1, 1)).astype(np.float32),
        w3=random.standard_normal((6, 6)).astype(np.float32),
    )
    ctx = planned(unit, TENSORRT, Variant.INT8)
    result = check_pass(STEP, unit, ctx)
    assert result.details["left"] == {"up": "the inputs of a ConvTranspose make no patches"}
    assert set(result.details["layers"]) == {"one", "fc1", "fc2"}
    learned = constant(quantised(result.unit, ctx), "one/weight/q")
    np.testing.assert_array_equal(learned[3], 0)


def test_weights_that_a_node_holds():
    values = np.random.default_rng(0).standard_normal(54)
    unit = parse(f"""g (float[N,2,4,4] x) => (float[N,12] y) {{
        w = Constant<value = float[3,2,3,3] {{{", ".join(f"{v:.6f}" for v in values)}}}>()
        [conv] c = Conv(x, w)
        y = Flatten(c)
    }}""")
    ctx = planned(unit, TENSORRT, Variant.INT8)
    result = check_pass(Adaround(below_snr_db=200), unit, ctx, idempotent=False)
    assert list(result.details["layers"]) == ["conv"]
