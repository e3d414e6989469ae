"""What a search starts from: what each layer loses, and what each residual Add would."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

from pydantic import TypeAdapter

from rtc.calibration import sensitivity
from rtc.calibration.sensitivity import Sensitivity
from rtc.compiler.core.data import Split
from rtc.compiler.core.errors import ModelError
from rtc.compiler.core.hashing import canonical
from rtc.compiler.core.precision import PrecisionPlan
from rtc.compiler.core.progress import Progress
from rtc.compiler.execution.stages import Files, versions
from rtc.compiler.lowering.plan_writer import PlanWriter
from rtc.passes.quantise.one_layer import alternatives
from rtc.passes.quantise.residual_ledger import LedgerRow, residual_ledger

_LEDGER: TypeAdapter[tuple[LedgerRow, ...]] = TypeAdapter(tuple[LedgerRow, ...])


def evidence_of(
    writer: PlanWriter,
    samples: Split,
    *,
    exact: bool = False,
    within_s: float = math.inf,
) -> Sensitivity:
    """What each layer loses in each precision: by the fast engine, or the exact one where that is
    asked for, or where the graph has an operator that the fast one has no gradient of.

    Of all samples, or of as many as there is time for.

    Raises:
        ModelError: the model is no classifier.
        DataError: an activation is not finite; the layer is named.
    """
    job, target = writer.job, writer.target
    context = replace(job.context, target=target)
    inputs = {
        "model": job.model.digest,
        "target": asdict(target),
        "statistics": {name: asdict(seen) for name, seen in context.statistics.items()},
        "data": context.data.digest,
        "samples": len(samples),
        "exact": exact,
        "within_s": within_s if math.isfinite(within_s) else None,
        "seed": context.seed,
        "versions": versions(("numpy", "onnx", "onnxruntime")),
    }

    def work(progress: Progress) -> tuple[Files, str]:
        proto, offered = alternatives(job.model, context)
        result = None
        if not exact:
            try:
                result = sensitivity.fast(
                    proto, offered, samples, seed=context.seed, within_s=within_s, progress=progress
                )
            except ModelError as error:
                if error.id != "no-gradient":
                    raise
                reason = f"{writer.backend.name}: {error.what}, so the exact one is used"
                job.stages.listener.warned(f"{reason} ({error.where})" if error.where else reason)
        if result is None:
            result = sensitivity.exact(
                proto, offered, samples, within_s=within_s, progress=progress
            )
        reason = f"{len(result.rows)} alternatives, {result.engine}, {result.samples} samples"
        return {"sensitivity.json": canonical(result.to_dict())}, reason

    name = f"sensitivity {writer.backend.name}"
    files = job.stages.run(name, inputs, work, target=target.profile.name)
    return Sensitivity.from_dict(json.loads(files["sensitivity.json"]))


def ledger_of(
    writer: PlanWriter,
    plan: PrecisionPlan,
    samples: Split,
    *,
    within_s: float = math.inf,
) -> tuple[LedgerRow, ...]:
    """What every policy would do to each residual Add of a plan; samples as in `evidence_of`."""
    if not plan.residuals:
        return ()
    job, target = writer.job, writer.target
    context = replace(job.context, target=target, plan=plan)
    inputs = {
        "model": job.model.digest,
        "plan": plan.to_dict(),
        "target": asdict(target),
        "statistics": {name: asdict(seen) for name, seen in context.statistics.items()},
        "data": context.data.digest,
        "samples": len(samples),
        "within_s": within_s if math.isfinite(within_s) else None,
        "versions": versions(("numpy", "onnx", "onnxruntime")),
    }

    def work(progress: Progress) -> tuple[Files, str]:
        watched = replace(context, progress=progress)
        rows = residual_ledger(job.model, watched, samples, within_s=within_s)
        return {"ledger.json": _LEDGER.dump_json(rows)}, f"{len(rows)} residual sums"

    name = f"residuals {writer.backend.name}"
    files = job.stages.run(name, inputs, work, target=target.profile.name)
    return _LEDGER.validate_json(files["ledger.json"])
