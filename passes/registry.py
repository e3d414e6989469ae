"""Passes by name. Looking one up imports its module, and no runtime."""

from __future__ import annotations

from collections.abc import Mapping

from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.naming import load_object, nearest
from rtc.compiler.core.passes import Pass

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
