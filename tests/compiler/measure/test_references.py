from __future__ import annotations

import numpy as np
import pytest
from check_pass import parse

from rtc.compiler.core.errors import ModelError
from rtc.compiler.measure import references
from rtc.compiler.measure.references import outputs_of, reference

W = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
X = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
FREE = parse(
    "g (float[N,4] x) => (float[N,3] y, float[N,4] z) { y = MatMul(x, w) z = Relu(x) }", w=W
)
FIXED = parse("g (float[4,4] x) => (float[4,3] y) { y = MatMul(x, w) }", w=W)


def test_every_output_and_as_many_samples() -> None:
    inputs, outputs = reference(FREE.onnx.proto, X)
    np.testing.assert_array_equal(inputs, X)
    np.testing.assert_allclose(outputs["y"], X @ W, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(outputs["z"], np.maximum(X, 0))
    listed = outputs_of(FREE.onnx.proto, X)
    assert listed is not None
    np.testing.assert_array_equal(listed[1], outputs["z"])


def test_a_fixed_batch_takes_samples_again_until_it_is_full() -> None:
    inputs, outputs = reference(FIXED.onnx.proto, X)
    np.testing.assert_array_equal(inputs, X[[0, 1, 2, 3, 4, 0, 1, 2]])
    np.testing.assert_allclose(outputs["y"], inputs @ W, rtol=1e-5, atol=1e-6)


def test_the_last_few_are_kept_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    run = references._run
    monkeypatch.setattr(references, "_runs", references.OrderedDict())
    monkeypatch.setattr(references, "_run", lambda *given: runs.append(1) or run(*given))
    reference(FREE.onnx.proto, X)
    reference(FREE.onnx.proto, X.copy())
    assert len(runs) == 1
    for shift in range(references._KEPT):
        reference(FREE.onnx.proto, X + shift + 1)
    assert len(references._runs) == references._KEPT
    reference(FREE.onnx.proto, X)
    assert len(runs) == references._KEPT + 2


def test_a_caller_may_change_what_it_got() -> None:
    reference(FREE.onnx.proto, X)[1].clear()
    assert set(reference(FREE.onnx.proto, X)[1]) == {"y", "z"}


def test_what_the_reference_does_not_take() -> None:
    unknown = parse("g (float[N,4] x) => (float[N,4] y) { y = mine.Own(x) }", '"" : 20, "mine" : 1')
    assert outputs_of(unknown.onnx.proto, X) is None
    with pytest.raises(ModelError, match=r"Own"):
        reference(unknown.onnx.proto, X)
