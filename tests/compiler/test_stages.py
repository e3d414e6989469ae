"""What a stage's key holds: everything that its result depends on, and nothing that changes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rtc.compiler.core.errors import BuilderError
from rtc.compiler.core.progress import Nobody, Progress
from rtc.compiler.stages import Files, Stages, referenced_code
from rtc.compiler.store import Store


class Told(Nobody):
    def __init__(self) -> None:
        self.lines: list[tuple[str, ...]] = []

    def started(self, stage: str, target: str) -> None:
        self.lines.append(("started", stage, target))

    def progressed(self, stage: str, done: int, total: int, found: str) -> None:
        self.lines.append(("progressed", stage, found))

    def finished(self, stage: str, seconds: float, found: str, cached: bool) -> None:
        self.lines.append(("finished", stage, found, "cached" if cached else "made"))

    def failed(self, stage: str, why: str) -> None:
        self.lines.append(("failed", stage, why))


@pytest.fixture
def stages(tmp_path: Path) -> Stages:
    return Stages(Store(tmp_path / "store"), Told())


def counted(calls: list[str], found: str = "it") -> Callable[[Progress], tuple[Files, str]]:
    def work(progress: Progress) -> tuple[Files, str]:
        calls.append(found)
        progress(1, 2, "half")
        return {"a": found.encode()}, found

    return work


def test_a_stage_is_done_once_for_the_same_inputs(stages: Stages) -> None:
    calls: list[str] = []
    first = stages.run("s", {"x": 1}, counted(calls))
    assert stages.run("s", {"x": 1}, counted(calls)) == first
    stages.run("s", {"x": 2}, counted(calls))
    stages.run("t", {"x": 1}, counted(calls))
    assert len(calls) == 3
    assert [row.name for _, row in stages.rows] == ["s", "s", "s", "t"]


def test_a_fresh_run_replaces_what_was_kept(stages: Stages) -> None:
    calls: list[str] = []
    stages.run("s", 1, counted(calls, "old"))
    fresh = Stages(stages.store, Nobody(), fresh=True)
    assert fresh.run("s", 1, counted(calls, "new"))["a"] == b"new"
    assert stages.run("s", 1, counted(calls, "never"))["a"] == b"new"
    with fresh.together("s", "cpu") as part:  # it was made in this very run
        assert part.run("s", 1, counted(calls, "again"))["a"] == b"new"
    assert calls == ["old", "new"]


def test_a_failed_stage_is_not_kept(stages: Stages) -> None:
    def broken(_: Progress) -> tuple[Files, str]:
        raise BuilderError("no")

    with pytest.raises(BuilderError):
        stages.run("s", 1, broken)
    assert stages.run("s", 1, counted([]))["a"] == b"it"


def test_stages_together_are_told_of_as_one(stages: Stages) -> None:
    told = stages.listener
    assert isinstance(told, Told)
    for kept in ("made", "cached"):
        told.lines.clear()
        with stages.together("both", "cpu") as part:
            part.run("one", 1, counted([], "first"), target="cpu")
            part.run("two", 1, counted([], "last"), target="cpu")
        assert told.lines[0] == ("started", "both", "cpu")
        assert told.lines[-1] == ("finished", "both", "first; last", kept)
    assert ("progressed", "both", "one: half") not in told.lines  # nothing was done again
    assert {row.name for row in stages.rows_of("cpu")} == {"one", "two"}
    assert stages.rows_of("other") == ()


def test_the_stage_that_others_are_done_for_speaks_alone(stages: Stages) -> None:
    with stages.together("both", "cpu") as part:
        part.run("one", 1, counted([], "before"))
        part.run("both", 1, counted([], "it"))
    assert isinstance(stages.listener, Told)
    assert stages.listener.lines[-1] == ("finished", "both", "it", "made")


def test_a_failure_among_stages_together_is_told_and_raised(stages: Stages) -> None:
    def broken(_: Progress) -> tuple[Files, str]:
        raise BuilderError("the runtime refuses")

    with pytest.raises(BuilderError), stages.together("both", "cpu") as part:
        part.run("one", 1, broken)
    assert isinstance(stages.listener, Told)
    assert stages.listener.lines[-1] == ("failed", "both", "the runtime refuses")


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("net_of_mine", "parts_of_mine", "pack_of_mine"):
        sys.modules.pop(name, None)


def test_code_that_a_users_module_imports_counts(beside: Path) -> None:
    (beside / "net_of_mine.py").write_text("import parts_of_mine\n")
    (beside / "parts_of_mine.py").write_text("A = 1\n")
    before = referenced_code({"factory": "net_of_mine:make", "lr": 0.1})
    (beside / "parts_of_mine.py").write_text("A = 2\n")
    assert referenced_code(["net_of_mine:make"]) != before
    assert set(before) == {"net_of_mine"}


def test_all_of_a_users_package_counts(beside: Path) -> None:
    (beside / "pack_of_mine" / "deep").mkdir(parents=True)
    (beside / "pack_of_mine" / "__init__.py").write_text("")
    (beside / "pack_of_mine" / "deep" / "net.py").write_text("A = 1\n")
    before = referenced_code("pack_of_mine.deep.net:make")
    (beside / "pack_of_mine" / "deep" / "net.py").write_text("A = 2\n")
    assert referenced_code("pack_of_mine.deep.net:make") != before
