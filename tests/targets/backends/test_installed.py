from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from rtc.targets.backends.installed import installed


def test_what_is_there_has_its_version() -> None:
    here = installed("numpy", extra="x")
    assert (here.ok, here.version) == (True, version("numpy"))
    assert installed("yaml", distribution="PyYAML", extra="x").version == version("PyYAML")


def test_what_is_not_there_has_a_command() -> None:
    none = installed("not_there_at_all", distribution="not-there", extra="gpu")
    assert not none.ok
    assert none.missing == "not-there is not installed"
    assert none.fix == "pip install 'rtc-compiler[gpu]'"
    assert installed("not_there_at_all", extra="").fix == "pip install 'rtc-compiler'"


def test_a_module_that_was_put_there_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "by_hand_of_mine.py").write_text("raise RuntimeError('it is not imported')")
    monkeypatch.syspath_prepend(tmp_path)
    here = installed("by_hand_of_mine", extra="x")
    assert (here.ok, here.version) == (True, "unknown")
