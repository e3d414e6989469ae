"""LeNet-5 for 28×28 grey digits: a teacher, and a leaner student.

After LeCun et al., "Gradient-based learning applied to document recognition" (1998), with GELU and
average pooling; the student has half the filters and one fully connected layer fewer. Activations
and pooling are modules, not functions, so that a pass can see and replace each of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.naming import nearest

if TYPE_CHECKING:
    from torch import nn


def teacher(*, activation: str = "gelu", pooling: str = "average") -> nn.Module:
    """Conv 6 k5 "same", Conv 16 k5, fully connected 400-120-84-10; 61,706 parameters.

    Input float32 (N, 1, 28, 28), output logits (N, 10).
    """
    return _lenet((6, 16), (400, 120, 84, 10), activation, pooling)


def student(*, activation: str = "gelu", pooling: str = "average") -> nn.Module:
    """Conv 3 k5 "same", Conv 8 k5, fully connected 200-50-10; 11,246 parameters.

    Input float32 (N, 1, 28, 28), output logits (N, 10).
    """
    return _lenet((3, 8), (200, 50, 10), activation, pooling)


def _lenet(
    filters: tuple[int, int], widths: tuple[int, ...], activation: str, pooling: str
) -> nn.Module:
    """Two convolutions, each with activation and pooling, then `widths` fully connected."""
    from torch import nn

    act = _chosen("activation", activation, {"gelu": nn.GELU, "relu": nn.ReLU})
    pool = _chosen("pooling", pooling, {"average": nn.AvgPool2d, "max": nn.MaxPool2d})
    first, second = filters
    layers: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(1, first, 5, padding="same"),
        "act1": act(),
        "pool1": pool(2),
        "conv2": nn.Conv2d(first, second, 5),
        "act2": act(),
        "pool2": pool(2),
        "flatten": nn.Flatten(),
    }
    last = len(widths) - 1
    for index, (wide, narrow) in enumerate(pairwise(widths), start=1):
        layers[f"fc{index}"] = nn.Linear(wide, narrow)
        if index < last:
            layers[f"act{index + 2}"] = act()
    return nn.Sequential(OrderedDict(layers))


def _chosen(option: str, word: str, kinds: Mapping[str, Any]) -> Any:
    if word not in kinds:
        raise RecipeError(f"no such {option}", seen=repr(word), fix=nearest(word, kinds))
    return kinds[word]
