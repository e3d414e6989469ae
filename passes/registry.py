"""Passes by name or by reference. Looking one up imports its module, and no runtime.

rtc's own stand in `PASSES`. An installed package registers others under the entry-point group
`rtc.passes`, and a recipe may name any class as "package.module:Class".
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from rtc.compiler.core.doors import Door
from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.passes import Pass
from rtc.compiler.core.unit import Level

PASSES: Mapping[str, str] = {
    "train": "rtc.passes.torch.train:Train",
    "distill": "rtc.passes.torch.distill:Distill",
    "simplify-activations": "rtc.passes.torch.simplify_activations:SimplifyActivations",
    "export-onnx": "rtc.passes.torch.export_onnx:ExportOnnx",
    "fold-constants": "rtc.passes.graph.fold_constants:FoldConstants",
    "eliminate-identity": "rtc.passes.graph.eliminate_identity:EliminateIdentity",
    "fold-batchnorm": "rtc.passes.graph.fold_batchnorm:FoldBatchnorm",
    "equalize": "rtc.passes.repair.equalize:Equalize",
    "eliminate-dead-code": "rtc.passes.graph.eliminate_dead_code:EliminateDeadCode",
    "assign-precision": "rtc.passes.quantise.assign_precision:AssignPrecision",
    "adaround": "rtc.passes.repair.adaround:Adaround",
    "correct-bias": "rtc.passes.repair.correct_bias:CorrectBias",
    "recalibrate": "rtc.passes.quantise.recalibrate:Recalibrate",
    "calibrate-segments": "rtc.passes.quantise.calibrate_segments:CalibrateSegments",
    "insert-qdq": "rtc.passes.quantise.insert_qdq:InsertQdq",
    "cast-precision": "rtc.passes.quantise.cast_precision:CastPrecision",
}
"""rtc's own passes."""

# mypy asks for a class that can be made; what others are made from is abstract.
DOOR = Door("rtc.passes", Pass, "pass", PASSES)  # type: ignore[type-abstract]

PER_TARGET: Mapping[str, str] = {
    "assign-precision": "precision.pin and precision.min_snr_db say how it decides",
    "adaround": "precision.repairs asks for it",
    "correct-bias": "precision.repairs asks for it",
    "recalibrate": "it follows precision.repairs",
    "calibrate-segments": "precision.ranges: segmented asks for it",
    "insert-qdq": "precision.offer says which variants are written",
    "cast-precision": "precision.offer says which variants are written",
}
"""Those that write precision, after a recipe's passes: what in the recipe has to do with each."""

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def pass_class(name: str) -> type[Pass]:
    """The class of a pass that a recipe names: rtc's, an installed package's, or the user's own.

    Raises:
        RecipeError: there is no such pass, it is none, or it runs once per target by itself.
    """
    reference = PASSES.get(name) or DOOR.reference(name)
    for own, remedy in PER_TARGET.items():
        if reference == PASSES[own]:
            raise RecipeError(
                f"{own} runs once per target by itself, after the recipe's passes",
                where="passes",
                fix=f"remove it here: {remedy}",
                id="pass-per-target",
            )
    return _checked(DOOR.find(reference, "passes"), reference)


def _checked(class_: type[Pass], reference: str) -> type[Pass]:
    """A class of passes that says of itself what rtc has to know."""
    if class_.__module__ != reference.partition(":")[0]:
        # Its source is looked for where it is defined, and that must be where the recipe says.
        seen, fault = f"one of {class_.__module__}", "a class that this module defines"
    elif "__dataclass_params__" not in vars(class_) or not dataclasses.is_dataclass(class_):
        seen, fault = "no dataclass", "@dataclass(frozen=True) above the class"
    elif not _NAME.fullmatch(str(getattr(class_, "name", ""))):
        seen, fault = f"name = {getattr(class_, 'name', None)!r}", "a ClassVar name, in kebab-case"
    elif not all(isinstance(getattr(class_, side, None), Level) for side in ("takes", "gives")):
        seen, fault = "no levels", "ClassVars takes and gives, each a Level"
    else:
        return class_
    raise RecipeError(
        f"{reference} is not a pass",
        where="passes",
        seen=seen,
        expected=fault,
        fix='README.md, "Your own pass", shows one',
        id="not-a-pass",
    )
