from __future__ import annotations

import numpy as np
import pytest
from check_pass import parse

from rtc.compiler.core.data import Preprocess, Split
from rtc.compiler.measure.reference import reference_logits

W = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
RAW = np.random.default_rng(1).standard_normal((11, 4)).astype(np.float32)


@pytest.mark.parametrize("batch", ["N", "4"])
def test_every_sample_has_its_answer_whatever_the_batch(batch: str) -> None:
    unit = parse(f"g (float[{batch},4] x) => (float[{batch},3] y) {{ y = MatMul(x, w) }}", w=W)
    split = Split("test", RAW, None, Preprocess(scale=2.0))
    seen = reference_logits(unit.onnx.proto, split, batch=5)
    np.testing.assert_allclose(seen, 2 * RAW @ W, rtol=1e-5, atol=1e-6)
