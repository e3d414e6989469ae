import numpy as np
import pytest
from check_pass import check_pass, equations, parse
from hypothesis import given, settings
from hypothesis import strategies as st

from rtc.passes.graph.fold_batchnorm import FoldBatchnorm

STEP = FoldBatchnorm()
RANDOM = np.random.default_rng(3)


def normal(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def norm(channels):
    return {
        "gamma": normal(channels),
        "beta": normal(channels),
        "mean": normal(channels),
        "var": (normal(channels) ** 2 + 0.1).astype(np.float32),
    }


def conv_bn(tail="y = BatchNormalization(c, gamma, beta, mean, var)", outputs="float[N,3,6,6] y"):
    return parse(
        f"""g (float[N,2,6,6] x) => ({outputs}) {{
        c = Conv<pads = [1,1,1,1]>(x, w, b)
        {tail}
    }}""",
        w=normal(3, 2, 3, 3),
        b=normal(3),
        **norm(3),
    )


def test_convolution_takes_the_normalisation_in():
    result = check_pass(STEP, conv_bn())
    assert equations(result.unit) == ["y = Conv(x, Conv_c/weight, Conv_c/bias)"]


@pytest.mark.parametrize(("transposed", "shape"), [(0, (5, 3)), (1, (3, 5))])
def test_gemm_takes_the_normalisation_in(transposed, shape):
    unit = parse(
        f"""g (float[N,5] x) => (float[N,3] y) {{
        c = Gemm<transB = {transposed}, alpha = 0.5, beta = 2.0>(x, w, b)
        y = BatchNormalization(c, gamma, beta, mean, var)
    }}""",
        w=normal(*shape),
        b=normal(3),
        **norm(3),
    )
    assert len(equations(check_pass(STEP, unit).unit)) == 1


@settings(max_examples=20, deadline=None)
@given(
    groups=st.sampled_from([1, 2, 3]),
    per_group=st.integers(1, 2),
    bias=st.booleans(),
    op=st.sampled_from(["Conv", "ConvTranspose"]),
)
def test_grouped_and_transposed_convolutions(groups, per_group, bias, op):
    channels = groups * per_group
    unit = parse(
        f"""g (float[N,{channels},5,5] x) => (float[N,{channels},A,B] y) {{
        c = {op}<group = {groups}>(x, w{", b" if bias else ""})
        y = BatchNormalization<epsilon = 0.01>(c, gamma, beta, mean, var)
    }}""",
        w=normal(channels, per_group, 3, 3),
        **({"b": normal(channels)} if bias else {}),
        **norm(channels),
    )
    assert check_pass(STEP, unit, samples=4).details["folded"] == 1


def test_a_bias_that_is_left_out_by_name_is_none():
    unit = parse(
        """g (float[N,2,6,6] x) => (float[N,3,4,4] y) {
        c = Conv(x, w, )
        y = BatchNormalization(c, gamma, beta, mean, var)
    }""",
        w=normal(3, 2, 3, 3),
        **norm(3),
    )
    assert check_pass(STEP, unit).details["folded"] == 1


def test_shared_weights_are_copied():
    unit = parse(
        """g (float[N,2,6,6] x) => (float[N,2,2,2] y) {
        c = Conv(x, w)
        d = BatchNormalization(c, gamma, beta, mean, var)
        y = Conv(d, w)
    }""",
        w=normal(2, 2, 3, 3),
        **norm(2),
    )
    assert equations(check_pass(STEP, unit).unit) == [
        "c = Conv(x, Conv_c/weight, Conv_c/bias)",
        "y = Conv(c, w)",
    ]


def test_two_normalisations_in_a_row_both_fold():
    unit = conv_bn(
        """d = BatchNormalization(c, gamma, beta, mean, var)
        y = BatchNormalization(d, gamma, beta, mean, var)"""
    )
    assert check_pass(STEP, unit).details["folded"] == 2


@pytest.mark.parametrize(
    ("tail", "outputs", "reason"),
    [
        (
            "y = BatchNormalization(c, gamma, beta, mean, var)\n z = Relu(c)",
            "float[N,3,6,6] y, float[N,3,6,6] z",
            "the output of Conv_c has 2 readers",
        ),
        (
            "y = BatchNormalization(c, gamma, beta, mean, var)",
            "float[N,3,6,6] y, float[N,3,6,6] c",
            "the output of Conv_c is the model's too",
        ),
        (
            "y, m, v = BatchNormalization<training_mode = 1>(c, gamma, beta, mean, var)",
            "float[N,3,6,6] y",
            "it runs in training mode",
        ),
        (
            "r = Relu(c)\n y = BatchNormalization(r, gamma, beta, mean, var)",
            "float[N,3,6,6] y",
            "it follows Relu, not Conv, ConvTranspose, Gemm",
        ),
        (
            "s = Abs(mean)\n y = BatchNormalization(c, gamma, beta, mean, s)",
            "float[N,3,6,6] y",
            "its parameters are not constant",
        ),
    ],
)
def test_what_cannot_be_folded_says_why(tail, outputs, reason):
    result = STEP.apply(conv_bn(tail, outputs), None)
    assert not result.modified
    assert list(result.details["left"].values()) == [reason]


def test_weights_that_would_overflow_stay():
    unit = parse(
        """g (float[N,2,6,6] x) => (float[N,3,6,6] y) {
        c = Conv<pads = [1,1,1,1]>(x, w)
        y = BatchNormalization<epsilon = 0.0>(c, gamma, beta, mean, var)
    }""",
        w=normal(3, 2, 3, 3),
        **{**norm(3), "var": np.zeros(3, np.float32)},
    )
    result = STEP.apply(unit, None)
    assert list(result.details["left"].values()) == ["the folded weights are not finite"]
