from __future__ import annotations

import numpy as np
from check_pass import parse, random_samples

from rtc.calibration.means import channel_means

UNIT = parse(
    """g (float[N,3,4,4] x) => (float[N,5] y) {
      c = Conv<kernel_shape=[1,1]>(x, k) r = Relu(c) p = GlobalAveragePool(r) f = Flatten(p)
      y = Identity(f)
    }""",
    k=np.random.default_rng(0).standard_normal((5, 3, 1, 1)).astype(np.float32),
)


def test_the_mean_of_each_channel_over_samples_and_places() -> None:
    split = random_samples(UNIT, 37).test
    means = channel_means(UNIT.onnx.proto, ["c", "f"], split)
    x = split.inputs().astype(np.float64)
    kernel = np.random.default_rng(0).standard_normal((5, 3, 1, 1)).astype(np.float32)[:, :, 0, 0]
    c = np.einsum("oc,nchw->nohw", kernel, x)
    np.testing.assert_allclose(means["c"], c.mean(axis=(0, 2, 3)), atol=1e-6)
    f = np.maximum(c, 0).mean(axis=(2, 3))
    np.testing.assert_allclose(means["f"], f.mean(axis=0), atol=1e-6)
