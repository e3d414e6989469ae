import numpy as np
import pytest
from check_pass import parse, random_samples

from rtc.calibration.gram import input_gram
from rtc.calibration.quantise import Parameters

FINE = Parameters(np.array(1 / 16, np.float32), np.array(0, np.int8))


def quantised(values):
    return np.clip(np.rint(values * 16), -128, 127) / 16


def test_a_matrix_products_inputs():
    unit = parse(
        "g (float[N,5] x) => (float[N,3] y) {\n[fc] y = Gemm(x, w)\n}", w=np.ones((5, 3), "f")
    )
    split = random_samples(unit, 40).calibration
    x = quantised(split.inputs())
    found = input_gram(unit.onnx.proto, "fc", 1, FINE, split, seed=0)
    np.testing.assert_allclose(found, (x.T @ x / 40)[None], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_convolutions_patches_predict_its_output_power(groups):
    weights = np.random.default_rng(1).standard_normal((8, 4 // groups, 3, 3)).astype(np.float32)
    text = f"""g (float[N,4,6,6] x) => (float[N,8,3,3] y) {{
        [conv] y = Conv<group = {groups}, pads = [1,1,1,1], strides = [2,2]>(x, w)
    }}"""
    unit = parse(text, w=weights)
    split = random_samples(unit, 24).calibration
    gram = input_gram(unit.onnx.proto, "conv", groups, FINE, split, seed=0)
    assert gram.shape == (groups, 36 // groups, 36 // groups)
    rows = weights.reshape(groups, 8 // groups, -1)
    power = np.einsum("goi,gij,goj->", rows, gram, rows)
    x = np.pad(quantised(split.inputs()), [(0, 0), (0, 0), (1, 1), (1, 1)])
    outputs = 0.0
    for row, column in np.ndindex(3, 3):
        window = x[:, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
        window = window.reshape(24, groups, -1)
        outputs += np.square(np.einsum("goi,ngi->ngo", rows, window)).sum()
    assert power == pytest.approx(outputs / (24 * 9), rel=1e-4)
