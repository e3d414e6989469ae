"""LeNet for 32×32 colour images, as it is commonly trained on CIFAR-10.

After LeCun et al., "Gradient-based learning applied to document recognition" (1998), with ReLU and
max-pooling.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from rtc.recipes.models.parts import at_least


def lenet(*, classes: int = 10) -> nn.Module:
    """Conv 6 k5, Conv 16 k5, each pooled; fully connected 400-120-84-`classes`.

    62,006 parameters with 10 classes. Input float32 (N, 3, 32, 32), output logits (N, classes).

    Raises:
        RecipeError: no class.
    """
    at_least("classes", classes, 1)
    parts: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(3, 6, 5),
        "act1": nn.ReLU(),
        "pool1": nn.MaxPool2d(2),
        "conv2": nn.Conv2d(6, 16, 5),
        "act2": nn.ReLU(),
        "pool2": nn.MaxPool2d(2),
        "flatten": nn.Flatten(),
        "fc1": nn.Linear(400, 120),
        "act3": nn.ReLU(),
        "fc2": nn.Linear(120, 84),
        "act4": nn.ReLU(),
        "fc3": nn.Linear(84, classes),
    }
    return nn.Sequential(OrderedDict(parts))
