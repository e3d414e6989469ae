from __future__ import annotations

import pytest

from rtc.compiler.core.precision import ResidualPolicy
from rtc.compiler.core.target import QuantScheme
from rtc.passes.quantise.residual_policy import not_expressible, own_policy

FUSED = QuantScheme("int8")
BETWEEN_INTEGERS = QuantScheme("int8", quantise_outputs=True)


@pytest.mark.parametrize("scheme", [FUSED, BETWEEN_INTEGERS])
def test_a_scheme_can_express_its_own_policy(scheme) -> None:
    assert not_expressible(own_policy(scheme), scheme) == ""


def test_where_outputs_are_quantised_both_branches_are_and_never_the_skip_alone() -> None:
    assert own_policy(FUSED) is ResidualPolicy.QUANTISE_SKIP
    assert own_policy(BETWEEN_INTEGERS) is ResidualPolicy.QUANTISE_BOTH
    said = not_expressible(ResidualPolicy.QUANTISE_SKIP, BETWEEN_INTEGERS)
    assert "only if its output is quantised" in said
