"""The gradients of pools and resizes against difference quotients."""

from __future__ import annotations

import pytest
from gradient_models import check_gradient, models_with

from rtc.calibration.sensitivity.rules import sampling


@pytest.mark.parametrize("name", models_with(sampling))
def test_against_the_difference_quotient(name):
    check_gradient(name)
