from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from rtc.passes.support.options import Fraction


@pytest.mark.parametrize("value", [0, 0.25, 1])
def test_a_fraction(value: float) -> None:
    assert TypeAdapter(Fraction).validate_python(value) == value


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), "much"])
def test_what_is_none(value: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Fraction).validate_python(value)
