"""The gradients of products against difference quotients."""

from __future__ import annotations

import pytest
from gradient_models import check_gradient, models_with

from rtc.calibration.sensitivity.rules import products


@pytest.mark.parametrize("name", models_with(products))
def test_against_the_difference_quotient(name):
    check_gradient(name)
