"""The gradients of operators on each element against difference quotients."""

from __future__ import annotations

import pytest
from gradient_models import check_gradient, models_with

from rtc.calibration.sensitivity.rules import elementwise


@pytest.mark.parametrize("name", models_with(elementwise))
def test_against_the_difference_quotient(name):
    check_gradient(name)
