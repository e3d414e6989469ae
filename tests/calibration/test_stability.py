"""Whether samples are enough for scales to be known."""

import numpy as np
import pytest
from audited_digits import planted
from check_pass import parse

from rtc.calibration.audit import _unsettled
from rtc.calibration.stability import Stability, stability
from rtc.compiler.cli.calibration import _verdict
from rtc.compiler.core.data import Preprocess, Split
from rtc.compiler.core.passes import Observation


@pytest.mark.parametrize(
    ("samples", "spreads", "enough", "names"),
    [
        (160, (0.01, 0.02, 0.03), 26, []),
        (160, (0.05, 0.05, 0.1), 160, []),
        (160, (0.02, 0.06, 0.07), 231, ["too-few-samples"]),
        (160, (0.01, 0.02, 0.2), 640, ["unstable-scales"]),
        (160, (0.06, 0.06, 0.2), 640, ["too-few-samples", "unstable-scales"]),
        (15, (0.01, 0.02, 0.03), None, ["too-few-samples"]),
        (160, (), 16, []),
    ],
)
def test_samples_are_enough_or_too_few_and_never_both(samples, spreads, enough, names):
    found = Stability(samples, {str(i): each for i, each in enumerate(spreads)}, ())
    assert found.enough == enough
    assert [fault.name for fault in _unsettled(found)] == names
    assert (enough is not None and enough <= samples) == (not names)
    assert _verdict(found).startswith("enough") == (not names)


def test_a_scale_that_one_sample_decides_is_unstable(model, clean):
    def outlier(raw, labels):
        raw = raw.astype(np.float32)
        raw[11, 3, 3] = 5000
        return raw, labels

    wanted = frozenset({Observation("input", "minmax")})
    data = planted(clean, outlier)
    result = stability(model, wanted, data.calibration)
    assert result.spread["input"] > 0.3
    assert stability(model, wanted, clean.calibration).spread["input"] < 0.01


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_a_fixed_batch_is_filled_up(batch):
    text = "g (float[{},4] x) => (float[{},4] y) {{ a = Abs(x) y = Neg(a) }}"
    free, fixed = (parse(text.format(size, size)).onnx.proto for size in ("N", batch))
    values = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    split = Split("some", values, None, Preprocess())
    wanted = frozenset(Observation(name, "minmax") for name in ("x", "a", "y"))
    assert stability(fixed, wanted, split) == stability(free, wanted, split)
