"""torchvision's classification networks, by name.

Nothing is downloaded: without `source.weights` in the recipe, a network is initialised from the
recipe's seed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtc.compiler.core.errors import MachineError, RecipeError
from rtc.compiler.core.naming import nearest

if TYPE_CHECKING:
    from torch import nn


def model(*, name: str, classes: int = 1000) -> nn.Module:
    """The network that torchvision calls `name` ("resnet50"), with `classes` outputs.

    Input float32 (N, 3, H, W) of a size that the network takes, output logits (N, classes).

    Raises:
        MachineError: torchvision cannot be imported.
        RecipeError: torchvision has no classification network of that name.
    """
    try:
        from torchvision import models
    except (ImportError, RuntimeError) as cause:  # RuntimeError: built for another torch
        raise MachineError(
            "this model needs torchvision, which cannot be imported",
            where="rtc.recipes.models.torchvision:model",
            seen=str(cause),
            fix="pip install 'rtc-compiler[vision]'",
            id="missing-extra",
        ) from cause
    known = models.list_models(module=models)
    if name not in known:
        raise RecipeError(
            "torchvision has no such network", seen=repr(name), fix=nearest(name, known)
        )
    network: nn.Module = models.get_model(name, weights=None, num_classes=classes)
    return network
