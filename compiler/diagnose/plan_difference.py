"""Two plans side by side: what one has in another precision than the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rtc.compiler.core.precision import LayerDecision, PrecisionPlan, ResidualDecision
from rtc.compiler.core.results import Report
from rtc.compiler.recipe.plan_file import read_plan


@dataclass(frozen=True)
class Side:
    """One of the two: its name, its plan, and the report of its bundle, if it is one."""

    name: str
    plan: PrecisionPlan
    report: Report | None = None


@dataclass(frozen=True)
class Change:
    """A layer or a residual Add that differs. A side that does not have it is ""."""

    name: str
    kind: str  # the operator, or "residual"
    first: str
    second: str
    because: tuple[str, str]


def side(path: Path) -> Side:
    """A plan file, or the plan and the report of a bundle.

    Raises:
        RecipeError: no plan.
        IntegrityError: a bundle that is not what its manifest says.
    """
    if path.suffix in (".yaml", ".yml"):
        return Side(str(path), read_plan(path))
    from rtc.compiler.bundle import bundles
    from rtc.compiler.publish.bundle_content import plan_of, report_of

    verified = bundles.verify(path)
    return Side(str(path), plan_of(verified), report_of(verified))


def changes(first: PrecisionPlan, second: PrecisionPlan) -> tuple[Change, ...]:
    """What differs, layers before residual Adds, each in the graph order of the first."""
    return (*_layers(first, second), *_residuals(first, second))


def _layers(first: PrecisionPlan, second: PrecisionPlan) -> list[Change]:
    differences = []
    for name in dict.fromkeys((*first.layers, *second.layers)):
        pair = first.layers.get(name), second.layers.get(name)
        before, after = (each.precision.value if each else "" for each in pair)
        if before != after:
            kind = next(each.op for each in pair if each)
            differences.append(Change(name, kind, before, after, _reasons(pair)))
    return differences


def _residuals(first: PrecisionPlan, second: PrecisionPlan) -> list[Change]:
    differences = []
    for name in dict.fromkeys((*first.residuals, *second.residuals)):
        pair = first.residuals.get(name), second.residuals.get(name)
        before, after = (each.policy.value if each else "" for each in pair)
        if before != after:
            differences.append(Change(name, "residual", before, after, _reasons(pair)))
    return differences


def _reasons(pair: Iterable[LayerDecision | ResidualDecision | None]) -> tuple[str, str]:
    first, second = (each.because if each else "" for each in pair)
    return first, second
