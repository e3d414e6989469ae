from __future__ import annotations

import numpy as np
import pytest

from rtc.calibration.normalisation import Moments, mistake, moments
from rtc.compiler.core.data import Preprocess, Split

RNG = np.random.default_rng(0)
RAW = np.clip(RNG.normal([90, 120, 150], [40, 50, 60], (300, 6, 6, 3)), 0, 255).astype(np.uint8)
UNIT = Preprocess(
    scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), layout="hwc"
)


def of(raw: np.ndarray, preprocess: Preprocess = UNIT) -> Moments:
    return moments(Split("s", raw, None, preprocess))


def test_they_are_those_of_the_raw_samples_whatever_was_declared() -> None:
    seen = of(RAW)
    np.testing.assert_allclose(seen.mean, RAW.mean(axis=(0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(seen.std, RAW.std(axis=(0, 1, 2)), rtol=1e-3)
    assert (seen.error < seen.std / 10).all()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda raw: raw, None),
        (lambda raw: raw[..., ::-1], "channels swapped (BGR for RGB)"),
        (lambda raw: raw / 255, "0-1 where the model expects 0-255"),
        (lambda raw: raw * 255.0, "0-255 where the model expects 0-1"),
        (lambda raw: raw[..., :1], "another number of channels"),
        (lambda raw: 255.0 - raw * 3, "no known mistake explains it: are these images"),
    ],
)
def test_what_was_done_wrong_is_named(change, name: str | None) -> None:
    plain = Preprocess(layout="hwc")
    seen = mistake(of(change(RAW.astype(np.float64)), plain), of(RAW, plain), UNIT)
    assert seen is None if name is None else str(seen).startswith(name)


def test_for_a_person_they_are_rounded() -> None:
    told = Moments(np.array([0.123456]), np.array([1 / 3]), np.array([0.0])).to_dict()
    assert told == {"mean": [0.1235], "std": [0.3333]}
