"""An observer of another package: the middle half of the range that was seen."""

from __future__ import annotations

from rtc.calibration.observers import Choice, Observer
from rtc.compiler.core.arrays import Array


class Middle(Observer):
    """Half of each extreme."""

    def take(self, values: Array, low: float, high: float) -> None:
        """The extremes say it all."""

    def choose(self) -> Choice:
        low, high = self.seen
        return Choice((low / 2, high / 2))
