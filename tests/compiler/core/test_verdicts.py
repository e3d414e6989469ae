"""The words of `report.json`: bundles that were written with them are read for years."""

from __future__ import annotations

from rtc.compiler.core.verdicts import CandidateState, LatencyMode, LayerVerdict, TrialState


def test_they_are_spelled_as_bundles_spell_them() -> None:
    assert list(LayerVerdict) == ["kept", "folded", "follows", "changed", "unknown"]
    assert list(TrialState) == ["best", "passed", "refused"]
    assert list(LatencyMode) == ["forward", "end-to-end"]
    states = ["shipped", "slower", "less accurate", "refused", "failed", "left out"]
    assert list(CandidateState) == states
