"""`rtc calibration audit`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtc.compiler.cli.answer import Answer, command, group
from rtc.compiler.cli.cache import Folder, open_store
from rtc.compiler.cli.watching import watched
from rtc.compiler.core.errors import DataError

if TYPE_CHECKING:
    from rtc.calibration.audit import Audit
    from rtc.calibration.stability import Stability

app = group("calibration", "Examine the samples that quantisation ranges are taken from.")


@command(app, "audit")
def audit(
    *,
    recipe: Annotated[Path, typer.Argument(help="The recipe file.")],
    cache: Folder = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> Answer:
    """Examine the calibration samples; ends with exit code 4 when something is wrong with them.

    Looks for duplicates, samples of the test set, constant and saturated inputs, a normalisation
    that is not the training samples' or not the model's, missing classes, and scales that other
    samples would change.
    Runs the recipe's passes first, or takes their results from the cache.

    \b
    Example:
      rtc calibration audit recipes/lenet5-mnist.yaml
    """
    with watched(quiet) as listener:
        result = _audited(recipe, cache, listener)
    return Answer(_document(result), _text(result), _failure(result))


def _audited(path: Path, cache: Path | None, listener: Any) -> Audit:
    from rtc.calibration.audit import audit as examine
    from rtc.compiler.execution.stages import Stages
    from rtc.compiler.frontend.float_model import make_front, observing
    from rtc.compiler.frontend.samples import splits_of
    from rtc.compiler.recipe.schema import load_recipe

    recipe = load_recipe(path)
    recipe.admit_code()
    stages = Stages(
        open_store(cache, warn=listener.warned), listener, owner=str(recipe.path.resolve())
    )
    data = splits_of(recipe, stages.known)
    model = make_front(recipe, data, stages).model
    wanted = observing(recipe).needs(model)
    return examine(data, data.classes, model.onnx.proto, wanted)


def _document(result: Audit) -> dict[str, Any]:
    return {
        "samples": result.samples,
        "compared_with": result.reference,
        "faults": [asdict(fault) for fault in result.faults],
        "enough_samples": result.stability.enough,
        "curve": [
            {"samples": samples, "median_error": median, "worst_error": worst}
            for samples, median, worst in result.stability.curve
        ],
        "scale_spread": dict(sorted(result.stability.spread.items())),
    }


def _text(result: Audit) -> str:
    stable = result.stability
    name, worst = stable.worst
    lines = [
        (
            f"{result.samples} calibration samples, compared with {result.reference}: "
            f"{_verdict(stable)}"
        ),
        (
            f"half of the scales are known within {stable.typical:.1%}; "
            f"least certain: {name}, ±{worst:.1%}"
        ),
    ]
    for fault in result.faults:
        lines += [f"{fault.name}: {fault.seen}", f"  {fault.fix}"]
    return "\n".join(lines if result.faults else [*lines, "nothing is wrong with them"])


def _verdict(stable: Stability) -> str:
    if stable.enough is None:
        return "too few to tell how many scales need"
    few = stable.enough > stable.samples
    return (
        f"too few for the scales, some {stable.enough} would do" if few else "enough for the scales"
    )


def _failure(result: Audit) -> DataError | None:
    if not result.faults:
        return None
    names = ", ".join(dict.fromkeys(fault.name for fault in result.faults))
    return DataError("the calibration samples have faults", seen=names, id="calibration-faults")
