from __future__ import annotations

import pytest

from rtc.compiler.cli.progress import TerminalListener
from rtc.compiler.cli.watching import step, step_of, watched
from rtc.compiler.core.errors import DataError
from rtc.compiler.core.progress import Nobody


class Told(Nobody):
    def __init__(self) -> None:
        self.said: list[str] = []

    def started(self, stage: str, target: str) -> None:
        self.said.append(f"started {stage}")

    def progressed(self, stage: str, done: int, total: int, found: str) -> None:
        self.said.append(f"{done}/{total} {found}")

    def finished(self, stage: str, seconds: float, found: str, cached: bool) -> None:
        self.said.append(f"finished {stage}")

    def failed(self, stage: str, why: str) -> None:
        self.said.append(f"failed {stage}{why}")


def test_a_step_tells_of_itself() -> None:
    listener = Told()
    with step_of(listener, "look") as progress:
        progress(1, 3)
        progress(3, 3, "best")
    assert listener.said == ["started look", "1/3 ", "3/3 best", "finished look"]


def test_an_error_is_left_to_who_ends_the_command() -> None:
    listener = Told()
    with pytest.raises(DataError), step_of(listener, "look"):
        raise DataError("no samples")
    assert listener.said == ["started look", "failed look"]


def test_quiet_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    with watched(quiet=True) as listener:
        assert isinstance(listener, Nobody)
    with watched(quiet=False) as listener:
        assert isinstance(listener, TerminalListener)
    with step("look", quiet=True) as progress:
        progress(1, 2)
    assert capfd.readouterr() == ("", "")
    with step("look", quiet=False):
        pass
    assert "look" in capfd.readouterr().err
