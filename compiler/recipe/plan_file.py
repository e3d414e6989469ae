"""`plan.yaml`: a precision plan that a person can read, edit and feed back."""

from __future__ import annotations

from pathlib import Path

import yaml

from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.precision import PrecisionPlan
from rtc.compiler.documents import strict_yaml

_MAX_BYTES = 4 * 1024 * 1024  # some 150 bytes a layer


def read_plan(path: Path) -> PrecisionPlan:
    """The plan in a file.

    Raises:
        RecipeError: it cannot be read, or is no plan; the message says where.
    """
    return _plan(strict_yaml.read(path, what="plan", limit=_MAX_BYTES))


def parse_plan(content: bytes, source: str) -> PrecisionPlan:
    """The plan in bytes; `source` names them in errors.

    Raises:
        RecipeError: they hold no plan.
    """
    return _plan(strict_yaml.parse(content, source, what="plan", limit=_MAX_BYTES))


def plan_text(plan: PrecisionPlan) -> bytes:
    """A plan as a file, its layers in graph order."""
    text: str = yaml.safe_dump(plan.to_dict(), sort_keys=False, allow_unicode=True)
    return text.encode()


def _plan(document: strict_yaml.Document) -> PrecisionPlan:
    value = document.value
    if not isinstance(value, dict):
        raise RecipeError(
            "not a precision plan",
            where=document.source,
            seen="an empty file" if value is None else type(value).__name__,
            expected="a mapping that starts with plan: 1, as in a bundle's plan.yaml",
        )
    try:
        return PrecisionPlan.from_dict(value)
    except RecipeError as error:
        error.where = document.source
        raise
