import numpy as np
import pytest
from check_pass import check_pass, constant, context_for, equations, parse
from equalised import RANDOM, spread, uneven, weights
from hostile import digits_unit, int8_snr, planned_on_digits, unbalanced
from nets import ONNXRUNTIME, TENSORRT

from rtc.compiler.core.passes import Bounded, PassContext
from rtc.passes.repair.equalize import Equalize


@pytest.fixture(autouse=True)
def _the_same_numbers_in_any_order_of_tests():
    """Each test draws the same weights, whichever ran before it in its process."""
    RANDOM.bit_generator.state = np.random.default_rng(5).bit_generator.state


@pytest.mark.parametrize("scheme", [ONNXRUNTIME, TENSORRT], ids=["onnxruntime", "tensorrt"])
def test_a_planted_imbalance_is_recovered(scheme):
    net = digits_unit()
    planted = unbalanced(net)
    result = check_pass(Equalize(), planted)
    assert [(row["first"], row["second"]) for row in result.details["pairs"]] == [("conv", "fc")]
    (row,) = result.details["pairs"]
    assert row["ratio_before"] > 50
    assert row["ratio_after"] < 5
    before = int8_snr(planted, planted, planned_on_digits(planted, scheme))
    after = int8_snr(planted, result.unit, planned_on_digits(result.unit, scheme))
    assert after > before + 20


def test_both_sides_of_a_pair_get_the_same_ranges():
    unit = parse(
        """g (float[N,3,6,6] x) => (float[N,4,6,6] y) {
        [one] a = Conv<pads = [1,1,1,1]>(x, w1, b1)
        [relu] r = Relu(a)
        [two] y = Conv(r, w2)
    }""",
        w1=uneven(8, 3, 3, 3).astype(np.float32),
        b1=weights(8),
        w2=weights(4, 8, 1, 1),
    )
    after = check_pass(Equalize(), unit).unit
    made = np.abs(constant(after, "one/weight")).max((1, 2, 3))
    read = np.abs(constant(after, "two/weight")).max((0, 2, 3))
    np.testing.assert_allclose(made, read, rtol=0.02)
    before = (
        np.abs(constant(unit, "w1")).max((1, 2, 3)),
        np.abs(constant(unit, "w2")).max((0, 2, 3)),
    )
    np.testing.assert_allclose(made, np.sqrt(before[0] * before[1]), rtol=0.02)


def test_depthwise_grouped_and_shared_weights_transposed_and_flattened():
    unit = parse(
        """g (float[N,4,8,8] x) => (float[N,3] y) {
        [expand] a = Conv(x, w1, b1)
        [relu1] r1 = Relu(a)
        [depth] d = Conv<group = 8, pads = [1,1,1,1]>(r1, w2, b2)
        [relu2] r2 = LeakyRelu(d)
        [groups] g1 = Conv<group = 2>(r2, w3, b1)
        [relu3] r3 = Relu(g1)
        [up] u = ConvTranspose(r3, w4, b1)
        [pool] m = MaxPool<kernel_shape = [2,2], strides = [2,2]>(u)
        [flat] f = Flatten(m)
        [fc1] h = Gemm(f, w5, b5)
        [relu4] r4 = Relu(h)
        [fc2] y = Gemm<transB = 1>(r4, w6)
    }""",
        w1=uneven(8, 4, 1, 1).astype(np.float32),
        b1=weights(8),
        w2=uneven(8, 1, 3, 3)[::-1].astype(np.float32),
        b2=weights(8),
        w3=uneven(8, 4, 1, 1).astype(np.float32),
        w4=weights(8, 8, 1, 1),
        w5=weights(8 * 16, 6),
        b5=weights(1, 6),
        w6=weights(3, 6),
    )
    result = check_pass(Equalize(), unit)
    seconds = [row["second"] for row in result.details["pairs"]]
    assert seconds == ["depth", "groups", "up", "fc1", "fc2"]
    assert spread(constant(result.unit, "expand/weight"), 0) < spread(constant(unit, "w1"), 0) / 4
    assert result.details["stopped"] == {"fc2": "y is an output of the model"}


def test_dead_channels_stay_as_they_are():
    w1 = uneven(4, 3, 1, 1).astype(np.float32)
    w2 = weights(2, 4, 1, 1)
    w1[1], w2[:, 2] = 0, 0
    unit = parse(
        """g (float[N,3,4,4] x) => (float[N,2,4,4] y) {
        [one] a = Conv(x, w1, b1)
        [relu] r = Relu(a)
        [two] y = Conv(r, w2)
    }""",
        w1=w1,
        b1=weights(4),
        w2=w2,
    )
    after = check_pass(Equalize(), unit).unit
    np.testing.assert_array_equal(constant(after, "one/weight")[1], 0)
    np.testing.assert_array_equal(constant(after, "two/weight")[:, 1], w2[:, 1])
    np.testing.assert_array_equal(constant(after, "one/weight")[2], w1[2])
    assert np.isfinite(constant(after, "one/weight")).all()


def clipped(size):
    """Two layers with a ReLU6 between them, on inputs `size` times as large."""
    return parse(
        """g (float[N,4] x) => (float[N,3] y) {
        [one] a = Gemm(x, w1, b1)
        [six] r = Clip(a, low, high)
        [two] y = Gemm(r, w2)
    }""",
        w1=(uneven(8, 4).T * size).astype(np.float32),
        b1=weights(8, spread=0.1),
        low=np.float32(0),
        high=np.float32(6),
        w2=weights(8, 3),
    )


def test_relu6_is_kept_unless_asked():
    result = check_pass(Equalize(), clipped(0.1))
    assert not result.modified
    assert result.details["stopped"]["one"] == "six stands behind it: ReLU6 is kept"
    assert isinstance(Equalize(relu6="replace").bound, Bounded)


def test_relu6_that_never_cuts_is_replaced():
    unit = clipped(0.01)
    result = check_pass(Equalize(relu6="replace"), unit)
    assert equations(result.unit)[1] == "r = Relu(a)"
    assert result.details["relu6"] == {"six": "replaced"}
    assert len(result.details["pairs"]) == 1
    assert result.stated is not None
    assert equations(result.stated.unit) == [
        "a = Gemm(x, w1, b1)",
        "r = Relu(a)",
        "y = Gemm(r, w2)",
    ]
    assert Equalize().apply(unit, context_for(unit)).stated is None


def test_relu6_that_the_classes_hang_on_is_refused():
    unit = clipped(20.0)
    result = check_pass(Equalize(relu6="replace"), unit)
    assert not result.modified
    assert result.details["relu6"]["six"].startswith("a ReLU would change")
    lavish = check_pass(Equalize(relu6="replace", max_disagreement=1.0), unit)
    assert lavish.details["relu6"] == {"six": "replaced"}


def test_within_one_budget_the_harmless_relu6_is_replaced_and_the_other_is_not():
    unit = parse(
        """g (float[N,4] x) => (float[N,3] y) {
        [one] a = Gemm(x, w1)
        [low6] r = Clip(a, low, high)
        [two] b = Gemm(r, w2)
        [high6] s = Clip(b, low, high)
        [three] y = Gemm(s, w3)
    }""",
        w1=weights(4, 8, spread=0.05),
        low=np.float32(0),
        high=np.float32(6),
        w2=(weights(8, 8) * 200).astype(np.float32),
        w3=weights(8, 3),
    )
    result = check_pass(Equalize(relu6="replace"), unit, context_for(unit))
    assert result.details["relu6"]["low6"] == "replaced"
    assert result.details["relu6"]["high6"].startswith("a ReLU would change")
    assert [row["second"] for row in result.details["pairs"]] == ["two"]


def test_a_net_without_neighbours_is_left_alone():
    unit = parse(
        "g (float[N,4] x) => (float[N,3] y) {\n[only] y = MatMul(x, w)\n}", w=weights(4, 3)
    )
    result = Equalize().apply(unit, PassContext(context_for(unit).data))
    assert result.unit is unit
    assert result.details == {
        "pairs": [],
        "stopped": {"only": "y is an output of the model"},
        "relu6": {},
    }
