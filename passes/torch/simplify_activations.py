"""Replace costly activations by cheap ones: GELU → ReLU, SiLU → HardSwish, sigmoid → HardSigmoid, …

One layer at a time, in the model's order: replace, fine-tune briefly, and keep the change where the
validation accuracy (calibration split) has fallen by no more than `budget` since before the first
change. Otherwise the activation stays, and so do the weights from before the attempt. Only modules
can be replaced: a function called in `forward` is not seen.

Details: `layers`, each with `layer`, `from`, `to`, `before` and `after` (validation top-1), `kept`
and `because`; and `curves`, one for each fine-tune.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from rtc.compiler.core.passes import Bounded, Pass, PassContext, PassResult
from rtc.compiler.core.unit import Level, Unit
from rtc.passes.torch.torch_module import (
    Activation,
    activation_name,
    build,
    pack,
    replace_activation,
)
from rtc.passes.torch.training import SAMPLING_MARGIN, History, Schedule, Score, evaluate, fit

if TYPE_CHECKING:
    from torch import nn

RULES: Mapping[Activation, Activation] = {
    "gelu": "relu",
    "relu6": "relu",
    "sigmoid": "hardsigmoid",
    "silu": "hardswish",
    "tanh": "hardtanh",
}


@dataclass(frozen=True, kw_only=True)
class SimplifyActivations(Schedule, Pass):
    """Replace costly activations layer by layer, each within an accuracy budget.

    Attributes:
        rules: What replaces which activation.
        budget: Largest drop of validation top-1 over all replacements together, as a fraction.
        epochs: Epochs of fine-tuning after each replacement.
        lr: Learning rate at the start of each fine-tune.
    """

    name: ClassVar[str] = "simplify-activations"
    takes: ClassVar[Level] = Level.TORCH
    gives: ClassVar[Level] = Level.TORCH
    uses: ClassVar[tuple[str, ...]] = ("torch", "accelerate")

    rules: Mapping[Activation, Activation] = field(default_factory=lambda: dict(RULES))
    budget: Annotated[float, Field(ge=0, le=1)] = 0.005
    epochs: Annotated[int, Field(ge=1)] = 2
    lr: Annotated[float, Field(gt=0)] = 0.01

    @property
    def bound(self) -> Bounded:
        """The budget is kept on the validation samples; others may differ by sampling."""
        return Bounded("top1_drop", self.budget + SAMPLING_MARGIN)

    def apply(self, unit: Unit, ctx: PassContext) -> PassResult:
        module = build(unit.torch)
        activations = _replaceable(module, self.rules)
        if not activations:
            return PassResult(unit, modified=False, summary="no activation that a rule names")
        start = score = evaluate(module, ctx.data.calibration)
        edits, layers, curves = list(unit.torch.edits), [], []
        for index, (path, old) in enumerate(activations):
            new = self.rules[old]
            trial, history = self._attempt(module, path, new, ctx, (index, len(activations)))
            after = evaluate(trial, ctx.data.calibration)
            kept = self._affords(start, after)
            layers.append(
                {
                    "layer": path,
                    "from": old,
                    "to": new,
                    "before": score.top1,
                    "after": after.top1,
                    "kept": kept,
                    "because": self._because(start, after),
                }
            )
            curves.append(history.curve(f"{path}: {old} → {new}"))
            if kept:
                module, score = trial, after
                edits.append((path, new))
        replaced = sum(layer["kept"] is True for layer in layers)
        return PassResult(
            unit=Unit(pack(module, unit.torch, tuple(edits)), unit.signature) if replaced else unit,
            modified=replaced > 0,
            summary=f"{replaced} of {len(activations)} activations replaced; "
            f"validation top-1 {start} → {score}",
            details={"layers": layers, "curves": curves},
        )

    def _attempt(
        self, module: nn.Module, path: str, new: str, ctx: PassContext, turn: tuple[int, int]
    ) -> tuple[nn.Module, History]:
        """A fine-tuned copy of the module with the replacement; `turn`: this one, of how many."""
        trial = copy.deepcopy(module)
        replace_activation(trial, path, new)

        def told(done: int, total: int, found: str = "") -> None:
            ctx.progress(turn[0] * total + done, turn[1] * total, f"{path} → {new} · {found}")

        return trial, fit(trial, self, replace(ctx, progress=told), where=self.name)

    def _because(self, start: Score, after: Score) -> str:
        change = f"{100 * round(after.top1 - start.top1, 9):+.2f} points since the start"
        verdict = "within" if self._affords(start, after) else "beyond"
        return f"{change}, {verdict} the budget of {100 * self.budget:.2f}"

    def _affords(self, start: Score, after: Score) -> bool:
        # Rounded: 0.97 - 0.96 is not within 0.01 in binary.
        return round(start.top1 - after.top1, 9) <= self.budget


def _replaceable(
    module: nn.Module, rules: Mapping[Activation, Activation]
) -> list[tuple[str, Any]]:
    """(path, activation) of every activation module that a rule names, in the model's order."""
    named = module.named_modules(remove_duplicate=False)
    seen = [(path, activation_name(part)) for path, part in named]
    return [(path, name) for path, name in seen if path and name in rules]
