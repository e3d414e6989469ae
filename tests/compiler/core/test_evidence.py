from __future__ import annotations

import json
import math

import pytest

from rtc.compiler.core.errors import InternalError
from rtc.compiler.core.evidence import Estimated, Measured, Pending, from_dict, to_dict

FIGURES = [
    Measured(1.5, "ms", "this CPU", 40, low=1.25, high=2.0),
    Measured(0.5, "", "here", 1),
    Estimated(18.25, "µs", "roofline"),
    Pending("ms", waits_for="rtx4060ti"),
]


@pytest.mark.parametrize("figure", FIGURES)
def test_it_survives_its_json(figure: Measured | Estimated | Pending) -> None:
    fields = json.loads(json.dumps(to_dict(figure)))
    assert next(iter(fields)) == "kind"
    assert from_dict(fields) == figure


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_no_evidence(value: float) -> None:
    with pytest.raises(InternalError) as error:
        Measured(value, "ms", "here", 3)
    assert error.value.id == "not-finite"
    with pytest.raises(InternalError, match="a figure of"):
        Estimated(value, "", "roofline")


def test_nothing_estimated_is_read_as_measured() -> None:
    assert to_dict(FIGURES[2])["kind"] == "estimated"
    assert not isinstance(from_dict(to_dict(FIGURES[2])), Measured)
