"""Pieces that several networks are built from.

Sums and activations are modules, so that the exporter names each after its path ("layer1.0.add")
and a policy or a pin can address it.
"""

from __future__ import annotations

from torch import Tensor, nn

from rtc.compiler.core.errors import RecipeError


class Add(nn.Module):
    """The sum of a branch and its shortcut, both (N, C, H, W)."""

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        return branch + shortcut


def he_normal(module: nn.Module) -> nn.Module:
    """`module` with weights drawn as in He et al., arXiv:1502.01852, and biases of zero.

    Convolutions count the values that leave a channel (fan-out), fully connected layers those that
    enter it. Normalisations keep what torch gives them.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(part, nn.Linear):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
        else:
            continue
        if part.bias is not None:
            nn.init.zeros_(part.bias)
    return module


def at_least(option: str, value: float, least: float) -> None:
    """Refuse an option below `least`.

    Raises:
        RecipeError: it is.
    """
    if value < least:
        raise RecipeError(
            f"{option} is too small for this model", seen=f"{value:g}", expected=f"≥ {least:g}"
        )
