from __future__ import annotations

from rtc.compiler.core.progress import Nobody, silent


class Partly(Nobody):
    def __init__(self) -> None:
        self.ended: list[str] = []

    def finished(self, stage: str, seconds: float, found: str, cached: bool) -> None:
        self.ended.append(f"{stage}: {found}")


def test_a_listener_may_care_for_a_part() -> None:
    listener = Partly()
    listener.started("build", "cpu")
    listener.redone("build", ["code changed"])
    listener.progressed("build", 1, 2, "half")
    listener.finished("build", 0.5, "done", False)
    listener.failed("measure", "broken")
    listener.warned("careful")
    assert listener.ended == ["build: done"]


def test_progress_that_nobody_watches_takes_every_call() -> None:
    assert silent(1, 2) is None
    assert silent(2, 2, "best so far") is None
