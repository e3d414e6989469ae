"""Real digits, and a small net that was trained on them."""

from __future__ import annotations

import pytest
from audited_digits import Given
from digits_net import digits, digits_net


@pytest.fixture(scope="session")
def clean():
    data = digits()
    return Given(data.train, data.calibration, data.test)


@pytest.fixture(scope="session")
def model(clean):
    return digits_net(clean.train)
