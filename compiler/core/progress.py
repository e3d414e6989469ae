"""How long work tells of itself: steps done of steps in all, and what was found so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Progress(Protocol):
    """Called from inside a step; must be cheap and must never raise."""

    def __call__(self, done: int, total: int, found: str = "") -> None: ...


def silent(done: int, total: int, found: str = "") -> None:
    """Progress that nobody watches."""


class Listener(Protocol):
    """Who watches a compile. `target` is "" for stages that serve every target."""

    def started(self, stage: str, target: str) -> None: ...
    def redone(self, stage: str, why: Sequence[str]) -> None: ...
    def progressed(self, stage: str, done: int, total: int, found: str) -> None: ...
    def finished(self, stage: str, seconds: float, found: str, cached: bool) -> None: ...
    def failed(self, stage: str, why: str) -> None: ...
    def warned(self, text: str) -> None: ...


class Nobody:
    """A listener that does not."""

    def started(self, stage: str, target: str) -> None:
        pass

    def redone(self, stage: str, why: Sequence[str]) -> None:
        pass

    def progressed(self, stage: str, done: int, total: int, found: str) -> None:
        pass

    def finished(self, stage: str, seconds: float, found: str, cached: bool) -> None:
        pass

    def failed(self, stage: str, why: str) -> None:
        pass

    def warned(self, text: str) -> None:
        pass
