"""What each operator does to a gradient, by its name; a rule to a function, in the files beside."""

from __future__ import annotations

from rtc.calibration.sensitivity.rules import elementwise, moving, norms, products, sampling
from rtc.calibration.sensitivity.rules.writing import Rule

RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **moving.RULES,
    **norms.RULES,
    **products.RULES,
    **sampling.RULES,
}
