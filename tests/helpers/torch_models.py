"""Factories that tests name as "torch_models:function"."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)) + x)


class Residual(nn.Module):
    """A block with a sum, an activation that is called twice, and operators of no module."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), Block(), nn.Dropout(), nn.Identity())
        self.act = nn.Hardtanh()
        self.fc = nn.Linear(26, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.act(self.act(self.features(x)) * 2)).mean((1, 2))


class Tied(nn.Module):
    """One weight under two names, and one that is not contiguous."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.first = nn.Linear(784, 784, bias=False)
        self.second = nn.Linear(784, 784, bias=False)
        self.second.weight = self.first.weight
        self.last = nn.Parameter(torch.randn(10, 784).t())

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(self.flatten(x))) @ self.last


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, -1)[:, :10] if len(x) == 2 else x.flatten(1)[:, :10]


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def residual() -> nn.Module:
    return Residual()


def tied() -> nn.Module:
    return Tied()


def fixed_batch() -> nn.Module:
    return FixedBatch()


def branching() -> nn.Module:
    return Branching()


def pair() -> nn.Module:
    return Pair()


def five_classes() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 5))


def no_module() -> list[int]:
    return []


class Images(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, x], dim=1)


class Numbers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((1, 2, 3))


def images() -> nn.Module:
    return Images()


def numbers() -> nn.Module:
    return Numbers()
