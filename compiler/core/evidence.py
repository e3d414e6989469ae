"""Every number says what it is: `Measured`, `Estimated` or `Pending`.

Nothing estimated is ever printed as measured, and a NaN is never a value: constructing one raises.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from rtc.compiler.core.errors import InternalError


def _finite(value: float, unit: str) -> None:
    if not math.isfinite(value):
        raise InternalError(f"a {unit or 'figure'} of {value} is not evidence", id="not-finite")


@dataclass(frozen=True)
class Measured:
    """A figure that was observed.

    `low` and `high` bound it (for an accuracy its 95 % confidence interval, for a latency its p5
    and p95), `samples` is how many observations stand behind it, `where` names the machine or the
    runtime that it was observed on.
    """

    value: float
    unit: str
    where: str
    samples: int
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        _finite(self.value, self.unit)


@dataclass(frozen=True)
class Estimated:
    """A figure that a model predicts; `model` names it and what it was given."""

    value: float
    unit: str
    model: str

    def __post_init__(self) -> None:
        _finite(self.value, self.unit)


@dataclass(frozen=True)
class Pending:
    """A figure that nobody has yet; `waits_for` names the device that can give it."""

    unit: str
    waits_for: str


Evidence = Measured | Estimated | Pending
_KINDS: dict[str, type[Measured] | type[Estimated] | type[Pending]] = {
    "measured": Measured,
    "estimated": Estimated,
    "pending": Pending,
}


def to_dict(evidence: Evidence) -> dict[str, Any]:
    """JSON form: the fields, and `kind` first."""
    return {"kind": type(evidence).__name__.lower(), **asdict(evidence)}


def from_dict(fields: dict[str, Any]) -> Evidence:
    """The inverse of `to_dict`."""
    rest = {name: value for name, value in fields.items() if name != "kind"}
    return _KINDS[fields["kind"]](**rest)
