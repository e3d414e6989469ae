"""Train a leaner student under the model's guidance, and beside it the control: no teacher.

    loss = hard · CE(student, labels)
         + (1 - hard - feature) · T² · KL(teacher / T ‖ student / T)
         + feature · mean of MSE(adapter(student layer), teacher layer)

The soft term is Hinton et al. (arXiv:1503.02531), the feature term FitNets (arXiv:1412.6550). The
control is the same architecture from the same initial weights on the same schedule, with hard
labels only: it often wins, so it is always trained. Which of the two goes on is decided on the
validation samples (the calibration split); test figures are reported and used for nothing.

Details: `curves` of both; `teacher`, `student` and `control`: `parameters`, `training_seconds`
(None for the teacher: it came trained), and on `validation` and `test` the `top1`, `loss` and
seconds to classify; `kept`, and `because`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.passes import Bounded, Pass, PassContext, PassResult
from rtc.compiler.core.unit import Level, Signature, TorchModel, Unit
from rtc.passes.support.options import Fraction
from rtc.passes.support.quiet import quiet
from rtc.passes.torch.distillation import unwrap, wrap
from rtc.passes.torch.torch_module import build, need, pack, signature
from rtc.passes.torch.training import (
    History,
    Schedule,
    Score,
    cross_entropy,
    evaluate,
    fit,
    kind_of,
    reproducible,
)

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class _Contestant:
    """A model of the comparison; the teacher has no history."""

    module: nn.Module
    history: History | None
    validation: Score
    test: Score

    def to_dict(self) -> dict[str, Any]:
        return {
            "parameters": sum(weight.numel() for weight in self.module.parameters()),
            "training_seconds": self.history.seconds if self.history else None,
            "validation": asdict(self.validation),
            "test": asdict(self.test),
        }


@dataclass(frozen=True, kw_only=True)
class Distill(Schedule, Pass):
    """Replace the model by a leaner student that learns from it; a control is trained too.

    Attributes:
        student: The student's factory, "package.module:function".
        student_options: Keyword arguments of the student's factory.
        temperature: Divides the logits of both before the soft loss.
        hard_fraction: Share of the loss on the labels; the rest is on the teacher's output.
        feature_fraction: Share of the loss on the layers that `features` pairs.
        features: Pairs of a layer of the student and the layer of the teacher that it imitates.
        keep: Which model goes on; best is the one with the higher validation accuracy.
        max_drop: Largest drop of top-1 accuracy against the teacher, as a fraction.
    """

    name: ClassVar[str] = "distill"
    takes: ClassVar[Level] = Level.TORCH
    gives: ClassVar[Level] = Level.TORCH
    uses: ClassVar[tuple[str, ...]] = ("torch", "accelerate", "nvidia-modelopt")

    student: str
    student_options: Mapping[str, Any] = field(default_factory=dict)
    temperature: Annotated[float, Field(gt=0)] = 4.0
    hard_fraction: Fraction = 0.3
    feature_fraction: Fraction = 0.0
    features: tuple[tuple[str, str], ...] = ()
    keep: Literal["best", "student", "control"] = "best"
    max_drop: Fraction = 0.03

    def __post_init__(self) -> None:
        """Refuse options that contradict each other."""
        if self.hard_fraction + self.feature_fraction > 1:
            raise RecipeError(
                "hard_fraction and feature_fraction add up to more than 1",
                where=self.name,
                seen=f"{self.hard_fraction:g} + {self.feature_fraction:g}",
            )
        if bool(self.features) != (self.feature_fraction > 0):
            raise RecipeError("features and feature_fraction go together", where=self.name)
        for layers in zip(*self.features, strict=True):
            if len(set(layers)) < len(layers):
                raise RecipeError(
                    "features pair a layer twice", where=self.name, seen=", ".join(layers)
                )

    @property
    def bound(self) -> Bounded:
        return Bounded("top1_drop", self.max_drop)

    def apply(self, unit: Unit, ctx: PassContext) -> PassResult:
        blank = TorchModel(self.student, dict(self.student_options))
        teacher = build(unit.torch)
        student = build(blank, seed=ctx.seed)
        control = build(blank, seed=ctx.seed)
        _same_outputs(signature(student, ctx.data.train), unit.signature)

        taught = self._teach(student, teacher, _part(ctx, 0, "student"))
        alone = fit(control, self, _part(ctx, self.epochs, "control"), where=self.name)
        contestants = {
            "teacher": _contest(teacher, None, ctx),
            "student": _contest(student, taught, ctx),
            "control": _contest(control, alone, ctx),
        }
        kept, because = choose(
            self.keep, contestants["student"].validation, contestants["control"].validation
        )
        scores = " · ".join(f"{name} {one.test}" for name, one in contestants.items())
        return PassResult(
            unit=Unit(pack(contestants[kept].module, blank), unit.signature),
            modified=True,
            summary=f"test top-1: {scores}; the {kept} goes on: {because}",
            details={
                "curves": [taught.curve("student"), alone.curve("control")],
                **{name: one.to_dict() for name, one in contestants.items()},
                "kept": kept,
                "because": because,
            },
        )

    def _teach(self, student: nn.Module, teacher: nn.Module, ctx: PassContext) -> History:
        """Train the student in place, inside modelopt's wrapper."""
        need("modelopt.torch.distill")
        own, theirs = (kind_of(each, ctx.data.train) for each in (student, teacher))
        with quiet(), reproducible(ctx.seed, self.threads):
            pair = wrap(
                student,
                teacher,
                sample=ctx.data.train.inputs(0, 1),
                temperature=self.temperature,
                features=self.features,
                shares=self._shares(),
                kinds=(own, theirs),
            )

        def loss(module: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
            hard = cross_entropy(module, inputs, labels, own)
            total: Tensor = pair.compute_kd_loss(student_loss=hard)
            return total

        watching = pair.only_student_forward
        history = fit(pair, self, ctx, where=self.name, loss=loss, while_evaluating=watching)
        unwrap(pair)
        return history

    def _shares(self) -> list[float]:
        """Weights of the hard loss, the soft loss, and each pair of layers."""
        soft = max(0.0, 1 - self.hard_fraction - self.feature_fraction)
        pairs = len(self.features)
        return [self.hard_fraction, soft, *[self.feature_fraction / pairs for _ in range(pairs)]]


def choose(keep: str, student: Score, control: Score) -> tuple[str, str]:
    """Which of the two goes on, and why: higher top-1, and where that is equal lower loss."""
    on = f"on {student.samples} validation samples"
    top1 = f"the student's top-1 is {student} against the control's {control} {on}"
    if keep != "best":
        return keep, f"the recipe says so ({top1})"
    better = (student.top1, -student.loss) > (control.top1, -control.loss)
    kept = "student" if better else "control"
    if student.top1 != control.top1:
        return kept, top1
    losses = f"{student.loss:.3f} against {control.loss:.3f}"
    return kept, f"both have {student} {on}, and the student's loss is {losses}"


def _contest(module: nn.Module, history: History | None, ctx: PassContext) -> _Contestant:
    validation = evaluate(module, ctx.data.calibration)
    return _Contestant(module, history, validation, evaluate(module, ctx.data.test))


def _same_outputs(student: Signature, teacher: Signature) -> None:
    if student != teacher:
        raise RecipeError(
            "the student does not give what the model gives",
            where="distill: student",
            seen=str(student.outputs[0].shape),
            expected=str(teacher.outputs[0].shape),
        )


def _part(ctx: PassContext, over: int, who: str) -> PassContext:
    """The context for one of two equally long trainings, when `over` epochs are over."""

    def told(done: int, total: int, found: str = "") -> None:
        ctx.progress(over + done, 2 * total, f"{who} {found}")

    return replace(ctx, progress=told)
