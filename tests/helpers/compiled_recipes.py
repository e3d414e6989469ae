"""A recipe of an ONNX model on real digits, and who watches its compile."""

from __future__ import annotations

from collections.abc import Sequence

from rtc.compiler.core.progress import Nobody

SEARCH = "precision: {search: {seconds: 2}}"
OFFER = "precision: {offer: [fp32]}"
RECIPE = f"""
recipe: 1
name: digits
version: 1.2.3
seed: 7
source: {{onnx: digits.onnx}}
data:
  dataset: rtc.recipes.datasets.mnist:mnist5k
  split: {{train: 0.4, calibration: 0.1, test: 0.2}}
passes: [fold-constants, eliminate-identity, fold-batchnorm, eliminate-dead-code]
{SEARCH}
batch: 16
targets: [cpu]
measure: {{seconds: 0.5}}
"""


class Watcher(Nobody):
    """Keeps which stages ran, and which came from the store."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.cached: list[str] = []
        self.why: dict[str, Sequence[str]] = {}

    def redone(self, stage: str, why: Sequence[str]) -> None:
        self.why[stage] = why

    def finished(self, stage: str, seconds: float, found: str, cached: bool) -> None:
        (self.cached if cached else self.ran).append(stage)
