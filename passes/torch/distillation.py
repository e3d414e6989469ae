"""A student and its teacher inside modelopt's distillation wrapper: what the losses hang on."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rtc.compiler.core.arrays import Array
from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.naming import nearest
from rtc.compiler.core.outputs import OutputKind
from rtc.passes.torch.training import logits_of

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.nn.modules.loss import _Loss

_INNER = "inner"


def wrap(
    student: nn.Module,
    teacher: nn.Module,
    *,
    sample: Array,
    temperature: float,
    features: Sequence[tuple[str, str]],
    shares: list[float],
    kinds: tuple[OutputKind, OutputKind],
) -> Any:
    """Modelopt's `DistillationModel`: forward runs both, `compute_kd_loss` adds the losses up.

    `features` pairs a layer of the student with one of the teacher; their shapes are found with
    `sample`, float32 (1, …). `shares` weigh the student's own loss, the soft loss, and each pair;
    `kinds` are those of the student's output and of the teacher's.

    Raises:
        RecipeError: no such layer, or two that cannot imitate each other.
    """
    import modelopt.torch.distill as mtd

    criterion: dict[tuple[str, str], _Loss] = {("", ""): _soft_loss(temperature, kinds)}
    criterion |= _hints(student, teacher, features, sample)
    options = {
        "teacher_model": teacher,
        "criterion": criterion,
        "loss_balancer": _balancer(shares),
    }
    return mtd.convert(_enclosed(student), mode=[("kd_loss", options)])


def unwrap(pair: Any) -> None:
    """Take modelopt's hooks off the student that was wrapped, and off its teacher."""
    import modelopt.torch.distill as mtd

    mtd.export(pair)


def _hints(
    student: nn.Module, teacher: nn.Module, features: Sequence[tuple[str, str]], sample: Array
) -> dict[tuple[str, str], _Loss]:
    """A loss for each pair of layers, with an adapter where their widths differ."""
    theirs = _shapes(teacher, [layer for _, layer in features], sample, "the model")
    ours = _shapes(student, [layer for layer, _ in features], sample, "the student")
    return {
        (f"{_INNER}.{mine}", other): hint_loss(
            ours[mine], theirs[other], f"features: {mine}, {other}"
        )
        for mine, other in features
    }


def hint_loss(student: tuple[int, ...], teacher: tuple[int, ...], where: str) -> _Loss:
    """MSE between two layers' outputs of these shapes (1, channels, …), behind an adapter.

    The adapter is a learnt 1×1 convolution (a linear map for flat features) from the student's
    channels to the teacher's.

    Raises:
        RecipeError: the shapes differ in more than channels.
    """
    from torch import nn
    from torch.nn.modules.loss import _Loss

    if student[2:] != teacher[2:] or len(student) not in (2, 4):
        raise RecipeError(
            "these layers cannot imitate each other: their outputs differ in more than channels",
            where=where,
            seen=f"{student[1:]} and {teacher[1:]}",
        )
    ours, theirs = student[1], teacher[1]
    adapter = nn.Linear(ours, theirs) if len(student) == 2 else nn.Conv2d(ours, theirs, 1)

    class HintLoss(_Loss):  # here, because its base is torch's
        def __init__(self) -> None:
            super().__init__()
            self.adapter = adapter

        def forward(self, student_features: Tensor, teacher_features: Tensor) -> Tensor:
            return nn.functional.mse_loss(self.adapter(student_features), teacher_features)

    return nn.MSELoss() if ours == theirs else HintLoss()


def _soft_loss(temperature: float, kinds: tuple[OutputKind, OutputKind]) -> _Loss:
    """Modelopt's loss between two models' logits, whatever form their outputs have."""
    import modelopt.torch.distill as mtd

    class SoftLoss(mtd.LogitsDistillationLoss):  # type: ignore[misc] # modelopt is untyped
        def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
            both = zip((student, teacher), kinds, strict=True)
            loss: Tensor = super().forward(*(logits_of(each, kind) for each, kind in both))
            return loss

    return SoftLoss(temperature, "batchmean")


def _balancer(shares: list[float]) -> nn.Module:
    """Sums the losses by their shares; modelopt's own refuses shares that rounding takes over 1."""
    import modelopt.torch.distill as mtd
    import torch

    class Balancer(mtd.DistillationLossBalancer):  # type: ignore[misc] # modelopt is untyped
        def forward(self, losses: dict[str, Tensor]) -> Tensor:
            # In modelopt's order: the student's own loss, then those of `criterion`.
            weighted = zip(shares, losses.values(), strict=True)
            return torch.stack([share * loss for share, loss in weighted]).sum()

    return Balancer()


def _enclosed(module: nn.Module) -> nn.Module:
    """The module as the only child of another.

    modelopt hangs the teacher and the losses below the module that it converts, and a `Sequential`
    would run them as its last layers.
    """
    outer = _enclosure()()
    outer.add_module(_INNER, module)
    return outer


@functools.cache  # modelopt registers each class that it converts, and a name only twice
def _enclosure() -> type[nn.Module]:
    from torch import nn

    class Enclosure(nn.Module):  # here, because its base is torch's
        def forward(self, inputs: Tensor) -> Tensor:
            outputs: Tensor = self.get_submodule(_INNER)(inputs)
            return outputs

    return Enclosure


def _shapes(
    module: nn.Module, layers: list[str], sample: Array, owner: str
) -> dict[str, tuple[int, ...]]:
    """The output shape of each layer for a batch of one sample."""
    import torch

    shapes: dict[str, tuple[int, ...]] = {}
    known = {name: layer for name, layer in module.named_modules() if name}
    for layer in layers:
        if layer not in known:
            raise RecipeError(
                f"{owner} has no layer {layer!r}", where="features", fix=nearest(layer, known)
            )

    def watch(layer: str) -> Any:
        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            shapes[layer] = tuple(output.shape)

        return known[layer].register_forward_hook(hook)

    hooks = [watch(layer) for layer in layers]
    with torch.no_grad():
        module(torch.from_numpy(sample))
    for hook in hooks:
        hook.remove()
    return shapes
