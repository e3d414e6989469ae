from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from contest.entries import EAGER, PEERS, RTC, Setting
from contest.models import Entrant, Trained, compile_recipe, trained
from contest.running import Contest, Limits, Row
from contest.verdict import verdicts

from rtc.compiler.core.intervals import Interval
from rtc.compiler.core.progress import Nobody
from rtc.compiler.frontend.samples import splits_of
from rtc.compiler.recipe.schema import load_recipe
from rtc.compiler.storage.store import Store

RECIPE = """
recipe: 1
name: tiny
version: 1.0.0
source: {factory: "rtc.recipes.models.lenet5:student"}
data:
  dataset: rtc.recipes.datasets.mnist:mnist5k
  split: {train: 0.2, calibration: 0.02, test: 0.04}
passes: [{train: {epochs: 1}}, export-onnx]
"""


class Listener(Nobody):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def started(self, stage: str, target: str) -> None:
        self.heard.append(stage)

    def failed(self, stage: str, why: str) -> None:
        self.heard.append(f"{stage} failed")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Entrant, Store, Trained]:
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.yaml").write_text(RECIPE)
    entrant, store = Entrant("tiny", folder / "tiny.yaml"), Store(folder / "store")
    return entrant, store, trained(entrant, store, Nobody())


def test_a_model_is_trained_once(tiny: tuple[Entrant, Store, Trained]) -> None:
    entrant, store, first = tiny
    listener = Listener()
    assert trained(entrant, store, listener) == first
    assert listener.heard == []


def test_no_training_sample_calibrates_or_tests(
    tiny: tuple[Entrant, Store, Trained], tmp_path: Path
) -> None:
    entrant, _, what = tiny
    recipe = compile_recipe(entrant, what, tmp_path, samples=50, threads=1)
    data = splits_of(load_recipe(recipe))
    assert len(data.calibration) == pytest.approx(50, abs=5)
    assert len(data.calibration) + len(data.test) == 300
    seen = {raw.tobytes() for raw in splits_of(load_recipe(entrant.recipe)).train.raw}
    used = {raw.tobytes() for split in (data.calibration, data.test) for raw in split.raw}
    assert len(used) == 300
    assert not seen & used


def test_peers_are_compared_and_failures_are_rows(
    tiny: tuple[Entrant, Store, Trained], tmp_path: Path
) -> None:
    entrant, _, what = tiny
    recipe = compile_recipe(entrant, what, tmp_path, samples=50, threads=1)
    known = {peer.name: peer for peer in PEERS}
    broken = replace(known["ort min-max"], name="broken", args=lambda _: {"method": "none"})
    peers = [known[EAGER], known["ort min-max"], broken]
    listener, data = Listener(), splits_of(load_recipe(recipe))
    contest = Contest(Setting(entrant, what, recipe, 1), peers, data, Limits(), listener)
    eager, ort, failed = contest.rows(seconds=1)
    assert eager.agreement.value == 1
    assert eager.search_s is None
    assert ort.agreement.value > 0.95
    assert ort.over_eager.value > 1
    assert ort.search_s > 0
    assert ort.peak_mib > 50
    assert ort.ahead is None  # rtc takes no part
    assert failed.failure.startswith("quantise failed (seen KeyError: 'none'")
    assert failed.ms is None
    assert "broken: search failed" in listener.heard


def around(value: float, margin: float) -> Interval:
    return Interval(value, value - margin, value + margin)


def rtc_row(**changes: Any) -> Row:
    fast = {"drop": around(0.0, 0.002), "over_eager": around(9, 1), "search_s": 100.0}
    return Row("m", RTC, **{**fast, **changes})


ENTRANT = Entrant("m", Path("m.yaml"), drop=0.001, speedup=12, search_s=180)


def missed(*rows: Row) -> list[str]:
    return [each.target for each in verdicts([ENTRANT], rows) if not each.holds]


def test_targets_that_are_missed() -> None:
    speed = "m: speedup over torch eager ≥ 12×"
    mean = "speedup over torch eager ≥ 8×, geometric mean of 1"
    assert missed(rtc_row()) == [speed]
    assert missed(rtc_row(over_eager=around(13, 1))) == []
    assert missed(rtc_row(over_eager=around(7, 1))) == [speed, mean]
    assert missed(rtc_row(over_eager=around(13, 1), search_s=181.0)) == ["m: search within 180 s"]
    within, beyond = around(0.004, 0.005), around(0.004, 0.003)
    assert missed(rtc_row(over_eager=around(13, 1), drop=within)) == []
    (target,) = missed(rtc_row(over_eager=around(13, 1), drop=beyond))
    assert target.startswith("m: drop of top-1")
    assert missed(rtc_row(failure="no candidate")) == ["m: rtc compiles it"]


@pytest.mark.parametrize(
    ("ahead", "faster", "beaten"),
    [(0.001, 1.2, True), (0.001, 1.05, False), (0.0, 1.2, False), (0.001, 0.9, False)],
)
def test_a_peer_beats_rtc_in_both_or_in_neither(ahead: float, faster: float, beaten: bool) -> None:
    peer = Row("m", "peer", ahead=around(ahead, 0.01), faster=around(faster, 0.1))
    lost = missed(rtc_row(over_eager=around(13, 1)), peer)
    assert lost == (["m: no peer both more accurate and faster"] if beaten else [])
