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

    def started(self, stage: str, target: str) -> None:
        """A stage begins."""

    def redone(self, stage: str, why: Sequence[str]) -> None:
        """A stage is done again, though it was done before: because of these changes."""

    def progressed(self, stage: str, done: int, total: int, found: str) -> None:
        """So many steps of a stage are done."""

    def finished(self, stage: str, seconds: float, found: str, cached: bool) -> None:
        """A stage ended; `cached`: its result was there already."""

    def failed(self, stage: str, why: str) -> None:
        """A stage ended without a result."""

    def warned(self, text: str) -> None:
        """What a person should know, of no stage."""


class Nobody(Listener):
    """A listener that does not; a base for those that care for a part."""

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
