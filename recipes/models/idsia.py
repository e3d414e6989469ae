"""The IDSIA network for road signs, a single column of it.

Cireşan et al., "Multi-column deep neural network for traffic sign classification" (2012), with ReLU
in place of tanh and 230 hidden units.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from rtc.recipes.models.parts import at_least, he_normal

_LAYERS = ((100, 3), (150, 4), (250, 3))  # filters and kernel; max-pooling by 2 after each


def idsia(*, classes: int = 43, size: int = 48, hidden: int = 230) -> nn.Module:
    """Conv 100 k3, Conv 150 k4, Conv 250 k3, each pooled; fully connected `hidden`, `classes`.

    1,510,863 parameters at 48×48. Input float32 (N, 3, size, size), output logits (N, classes).

    Raises:
        RecipeError: no class, no hidden unit, or an input below 24 pixels.
    """
    at_least("classes", classes, 1)
    at_least("hidden", hidden, 1)
    at_least("size", size, 24)
    parts: dict[str, nn.Module] = {}
    channels = 3
    for index, (filters, kernel) in enumerate(_LAYERS, start=1):
        parts[f"conv{index}"] = nn.Conv2d(channels, filters, kernel)
        parts[f"act{index}"] = nn.ReLU()
        parts[f"pool{index}"] = nn.MaxPool2d(2)
        channels, size = filters, (size - kernel + 1) // 2
    parts["flatten"] = nn.Flatten()
    parts["fc1"] = nn.Linear(channels * size * size, hidden)
    parts["act4"] = nn.ReLU()
    parts["fc2"] = nn.Linear(hidden, classes)
    return he_normal(nn.Sequential(OrderedDict(parts)))
