"""What passes that train tell of it in their details, as types; of any other pass there is nothing.

A pass of a user's may have details by the same names that mean something else: they are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from rtc.compiler.core.results import Curve
from rtc.passes.torch.training import Score

T = TypeVar("T")

_CONTESTANTS = ("teacher", "student", "control")
_SCORE: TypeAdapter[Score] = TypeAdapter(Score)
_CURVE: TypeAdapter[Curve] = TypeAdapter(Curve)


@dataclass(frozen=True)
class Training:
    """One pass, by what it tells of training.

    Attributes:
        stage: the pass's name.
        curves: of each model that it trained.
        test: what the trained model makes of the test set.
        contestants: the same of a distillation's teacher, student and control.
        because: why the model that goes on does.
    """

    stage: str
    curves: tuple[Curve, ...] = ()
    test: Score | None = None
    contestants: Mapping[str, Score] = field(default_factory=dict)
    because: str = ""


def training_of(stage: str, details: Mapping[str, Any]) -> Training:
    """What a pass tells of training."""
    entries = {who: _entry(details, who) for who in _CONTESTANTS}
    scores = {who: _read(_SCORE, one.get("test")) for who, one in entries.items()}
    curves = details.get("curves")
    because = details.get("because")
    return Training(
        stage=stage,
        curves=tuple(
            curve
            for each in (curves if isinstance(curves, (list, tuple)) else ())
            if isinstance(each, Mapping)
            and (curve := _read(_CURVE, {**each, "stage": stage})) is not None
        ),
        test=_read(_SCORE, details.get("test")),
        contestants={who: score for who, score in scores.items() if score is not None},
        because=because if isinstance(because, str) else "",
    )


def _entry(details: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    entry = details.get(name)
    return entry if isinstance(entry, Mapping) else {}


def _read(adapter: TypeAdapter[T], value: object) -> T | None:
    try:
        return adapter.validate_python(value)
    except ValidationError:
        return None
