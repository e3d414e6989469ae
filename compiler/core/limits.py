"""Whether a figure keeps its limit, the rounding of floats aside."""

from __future__ import annotations

_ROUNDING = 1e-9  # two fractions of samples differ by less only where floats round


def at_most(figure: float, limit: float) -> bool:
    """Whether a figure, such as a drop of top-1 as a fraction, is within its limit."""
    return figure <= limit + _ROUNDING


def at_least(figure: float, limit: float) -> bool:
    """Whether a figure, such as a share of samples that agree, is enough."""
    return figure >= limit - _ROUNDING
