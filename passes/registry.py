"""Passes by name. Looking one up imports its module, and no runtime."""

from __future__ import annotations

from collections.abc import Mapping

from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.naming import load_object, nearest
from rtc.compiler.core.passes import Pass

PASSES: Mapping[str, str] = {
    "train": "rtc.passes.train:Train",
    "distill": "rtc.passes.distill:Distill",
    "simplify-activations": "rtc.passes.simplify_activations:SimplifyActivations",
    "export-onnx": "rtc.passes.export_onnx:ExportOnnx",
    "fold-constants": "rtc.passes.fold_constants:FoldConstants",
    "eliminate-identity": "rtc.passes.eliminate_identity:EliminateIdentity",
    "fold-batchnorm": "rtc.passes.fold_batchnorm:FoldBatchnorm",
    "equalize": "rtc.passes.equalize:Equalize",
    "eliminate-dead-code": "rtc.passes.eliminate_dead_code:EliminateDeadCode",
}
"""Passes that a recipe may name. Those that write precision run once per target, after these."""


def pass_class(name: str) -> type[Pass]:
    """The class of a pass.

    Raises:
        RecipeError: there is no pass of that name.
    """
    if name not in PASSES:
        raise RecipeError(
            f"no pass is called {name!r}", where="passes", fix=nearest(name, PASSES), id="no-pass"
        )
    found: type[Pass] = load_object(PASSES[name], where="passes")
    return found
