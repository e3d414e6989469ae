"""Run one pass as a stage: apply it, check its promise, keep the result and its certificate."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rtc.compiler.core.data import Split
from rtc.compiler.core.errors import GateError, RecipeError, RtcError, first_line
from rtc.compiler.core.passes import (
    Bound,
    Pass,
    PassContext,
    PassResult,
    Statistics,
    TensorRange,
)
from rtc.compiler.core.precision import PrecisionPlan
from rtc.compiler.core.progress import Progress
from rtc.compiler.core.results import CertificateRow
from rtc.compiler.core.unit import TorchModel, Unit
from rtc.compiler.execution.pass_contract import check_requirements, check_structure
from rtc.compiler.execution.stages import Files, Stages, versions
from rtc.compiler.recipe.pass_list import own_references
from rtc.compiler.recipe.source_code import referenced_code, with_code

_CHECKED_WITH = ("numpy", "onnx", "onnx-graphsurgeon", "onnxruntime")
_RESULT = "result.json"
_SAMPLES = 256  # at most: a broken model shows in the first few
_ELEMENTS = 1 << 24  # of inputs, 111 images of 224²: more would take a large model's time
_LEAST = 64  # all the same: a pass that changes one class in five fails a bound of 5 %, 98 in 100
_SAME = 16  # where not a byte has changed: that they run, and give numbers, is all there is to show


@dataclass(frozen=True)
class Passed:
    """What a pass gave, and the certificates that its check left."""

    unit: Unit
    plan: PrecisionPlan | None
    statistics: Statistics | None
    details: Mapping[str, Any]
    certificates: tuple[CertificateRow, ...]

    @property
    def another_function(self) -> bool:
        """Whether the model may compute something else now."""
        return any(row.before != row.after for row in self.certificates if not row.exact)


def run_pass(
    step: Pass, unit: Unit, ctx: PassContext, stages: Stages, *, label: str = ""
) -> Passed:
    """Apply and check a pass, or take both from the store.

    Raises:
        RecipeError: the pass requires what is not there, or breaks its contract.
        GateError: the output does not keep the bound that the pass states.
    """
    inputs = {
        "pass": step.name,
        "options": step.options(),
        "unit": unit.digest,
        "seed": ctx.seed,
        "data": ctx.data.digest,
        "target": asdict(ctx.target) if ctx.target else None,
        "statistics": _ranges_to_dict(ctx.statistics),
        "plan": ctx.plan.to_dict() if ctx.plan else None,
        "reference": ctx.reference.digest if ctx.reference else None,
        "versions": versions(_CHECKED_WITH + step.uses),
        "code": referenced_code([step.options(), *_factory(unit)]),
    }

    def work(progress: Progress) -> tuple[Files, str]:
        result = _applied(step, unit, replace(ctx, progress=progress))
        result = replace(result, unit=with_code(result.unit))
        certificates = certify(step, unit, result, ctx)
        return _to_files(result, certificates), result.summary

    target = ctx.target.profile.name if ctx.target else ""
    return _from_files(stages.run(label or step.name, inputs, work, target=target, by=[step]))


def _applied(step: Pass, unit: Unit, ctx: PassContext) -> PassResult:
    """What a pass makes of a unit; the failure of one that is not rtc's is the recipe's fault.

    Raises:
        RecipeError: a user's own pass failed, or gave something else than it declares.
    """
    check_requirements(step, ctx)
    own = own_references([step])
    try:
        result = step.apply(unit, ctx)
    except RtcError:
        raise
    except Exception as cause:
        if not own:
            raise
        raise RecipeError(
            "this pass of the recipe's failed",
            where=f"{step.name} ({own[0]})",
            seen=f"{type(cause).__name__}: {first_line(cause)}",
            fix="mend it, or the options that the recipe gives it",
            id="user-code",
        ) from cause
    check_structure(step, unit, result)
    return result


def certify(step: Pass, unit: Unit, result: PassResult, ctx: PassContext) -> list[CertificateRow]:
    """Hold a pass's output against its input, by way of the change that it states, if it does.

    Raises:
        GateError: it does not keep the bound that the pass states.
    """
    judged = result.unit if result.judged is None else result.judged.unit
    if judged is None:
        return [_left_to_the_engine(step, unit, result.unit)]
    before, checker = ctx.reference or unit, _Checker(step, ctx, result.remedy)
    if result.stated is None:
        row = checker.row(before, judged, step.bound)
        return [replace(row, before=unit.digest, after=result.unit.digest)]
    stated = result.stated
    rows = [checker.row(stated.unit, judged, stated.beside)]
    if stated.unit.digest != before.digest:
        of = "the change that it states"
        rows.insert(0, checker.row(before, stated.unit, step.bound, of))
    return rows


def _left_to_the_engine(step: Pass, before: Unit, after: Unit) -> CertificateRow:
    """What `fidelity` answers, which holds the engine against the float model."""
    from rtc.compiler.measure import parity

    return CertificateRow(
        stage=step.name,
        exact=False,
        bound=parity.sentence(step.bound),
        measured="the runtime rounds where it likes: its engine is held to the float model",
        samples=0,
        passed=True,
        before=before.digest,
        after=after.digest,
    )


@dataclass(frozen=True)
class _Checker:
    """Holds models against others on a pass's data."""

    step: Pass
    ctx: PassContext
    remedy: str

    def row(self, before: Unit, after: Unit, bound: Bound, of: str = "") -> CertificateRow:
        """The certificate that `after` keeps the bound of `before`.

        Raises:
            GateError: it does not.
        """
        from rtc.compiler.measure import parity

        data = self.ctx.data
        row = parity.check(
            before,
            after,
            bound,
            data.test,
            stage=f"{self.step.name}: {of}" if of else self.step.name,
            samples=_SAME if before.digest == after.digest else _enough(data.test),
            data=data.digest,
        )
        if not row.passed:
            raise GateError(
                "the pass broke its bound",
                where=row.stage,
                seen=row.measured,
                expected=row.bound,
                fix=self.remedy,
                id="pass-broke-bound",
            )
        return row


def _enough(split: Split) -> int:
    """How many samples a changed model is checked on."""
    elements = math.prod(split.inputs(0, 1).shape)
    return min(_SAMPLES, max(_LEAST, _ELEMENTS // max(1, elements)))


def _factory(unit: Unit) -> tuple[Any, ...]:
    """What names code in a unit: its digest tells that it changed, and this tells in which file."""
    return (unit.model.factory, unit.model.options) if isinstance(unit.model, TorchModel) else ()


def _to_files(result: PassResult, certificates: Sequence[CertificateRow]) -> Files:
    head = {
        "plan": result.plan.to_dict() if result.plan else None,
        "statistics": _ranges_to_dict(result.statistics),
        "details": dict(result.details),
        "certificates": [asdict(row) for row in certificates],
    }
    content = json.dumps(head, allow_nan=False)  # a plan keeps the order of the graph
    return {**result.unit.to_files(), _RESULT: content.encode()}


def _from_files(files: Files) -> Passed:
    head = json.loads(files[_RESULT])
    return Passed(
        unit=Unit.from_files(files),
        plan=PrecisionPlan.from_dict(head["plan"]) if head["plan"] else None,
        statistics=_ranges_from_dict(head["statistics"]),
        details=head["details"],
        certificates=tuple(CertificateRow(**row) for row in head["certificates"]),
    )


def _ranges_to_dict(statistics: Statistics | None) -> dict[str, Any] | None:
    if statistics is None:
        return None
    return {name: asdict(seen) for name, seen in statistics.items()}


def _ranges_from_dict(fields: Mapping[str, Any] | None) -> Statistics | None:
    if fields is None:
        return None
    return {name: TensorRange(**seen) for name, seen in fields.items()}
