from __future__ import annotations

import numpy as np
import pytest
from check_pass import parse

from rtc.compiler.core.errors import ModelError
from rtc.compiler.core.running import unoptimised

TWICE = parse("g (float[N,3] x) => (float[N,3] y) { a = Identity(x) b = Identity(a) y = Neg(b) }")


@pytest.mark.parametrize("frugal", [False, True])
def test_it_computes_what_the_graph_says(frugal: bool) -> None:
    session = unoptimised(TWICE.onnx.proto, 2, frugal=frugal)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], -x)


def test_the_graph_is_left_alone() -> None:
    """A product of zeros that an optimiser would fold away is computed: NaN times 0 is NaN."""
    unit = parse(
        "g (float[N,3] x) => (float[N,3] y) { z = Mul(x, zero) y = Add(z, x) }",
        zero=np.zeros(3, np.float32),
    )
    x = np.array([[np.inf, 1, 2]], np.float32)
    (y,) = unoptimised(unit.onnx.proto).run(None, {"x": x})
    assert np.isnan(y[0, 0])
    assert y[0, 1:].tolist() == [1, 2]


def test_what_it_does_not_take_is_a_model_error() -> None:
    with pytest.raises(ModelError) as error:
        unoptimised(b"no model")
    assert error.value.id == "model-not-loadable"
