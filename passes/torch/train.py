"""Train the model on the recipe's training split.

Details: `curves`, and `test`: the top-1 and loss on the test split, reported and used for nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

from rtc.compiler.core.passes import Bounded, Pass, PassContext, PassResult
from rtc.compiler.core.unit import Level, Unit
from rtc.passes.torch.torch_module import build, pack
from rtc.passes.torch.training import SAMPLING_MARGIN, Schedule, evaluate, fit


@dataclass(frozen=True)
class Train(Schedule, Pass):
    """Train by stochastic gradient descent on the labels of the training split."""

    name: ClassVar[str] = "train"
    takes: ClassVar[Level] = Level.TORCH
    gives: ClassVar[Level] = Level.TORCH
    uses: ClassVar[tuple[str, ...]] = ("torch", "accelerate")

    @property
    def bound(self) -> Bounded:
        """Training changes everything, but it may not make the model worse beyond sampling."""
        return Bounded("top1_drop", SAMPLING_MARGIN)

    def apply(self, unit: Unit, ctx: PassContext) -> PassResult:
        module = build(unit.torch)
        history = fit(module, self, ctx, where=self.name)
        test = evaluate(module, ctx.data.test)
        return PassResult(
            unit=Unit(pack(module, unit.torch), unit.signature),
            modified=True,
            summary=f"{test} of the test split right after {self.epochs} epochs",
            details={"curves": [history.curve("model")], "test": asdict(test)},
        )
