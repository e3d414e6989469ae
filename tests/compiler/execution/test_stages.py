"""What a stage's key holds: everything that its result depends on, and nothing that changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from rtc.compiler.core.errors import BuilderError
from rtc.compiler.core.progress import Nobody, Progress
from rtc.compiler.execution.changes import in_words
from rtc.compiler.execution.stages import Files, Stages
from rtc.compiler.storage.store import Store


class Told(Nobody):
    def __init__(self) -> None:
        self.lines: list[tuple[str, ...]] = []

    def started(self, stage: str, target: str) -> None:
        self.lines.append(("started", stage, target))

    def redone(self, stage: str, why: Sequence[str]) -> None:
        self.lines.append(("redone", stage, *why))

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
    for kept in ("made", "cached"):
        stages = Stages(stages.store, told := Told())
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


def test_what_is_looked_into_on_the_way_speaks_for_no_stage(stages: Stages) -> None:
    with stages.together("openvino half", "cpu") as part:
        part.run("range of float16", 1, counted([], "0 nodes stay float"))
        part.run("assign-precision openvino int8", 1, counted([], "another's"))
        part.run("assign-precision openvino half", 1, counted([], "5 layers in half"))
        part.run("cast-precision openvino half", 1, counted([], "7 casts"))
        part.run("build openvino half", 1, counted([], "6 kernels"))
    assert isinstance(stages.listener, Told)
    assert stages.listener.lines[-1][2] == "5 layers in half; 6 kernels"


def test_a_failure_among_stages_together_is_told_and_raised(stages: Stages) -> None:
    def broken(_: Progress) -> tuple[Files, str]:
        raise BuilderError("the runtime refuses")

    with pytest.raises(BuilderError), stages.together("both", "cpu") as part:
        part.run("one", 1, broken)
    assert isinstance(stages.listener, Told)
    assert stages.listener.lines[-1] == ("failed", "both", "the runtime refuses")


def test_what_was_made_for_another_stage_of_this_compile_is_not_from_the_cache(
    stages: Stages,
) -> None:
    with stages.together("threads", "cpu") as part:
        part.run("build", 1, counted([]), target="cpu")
    with stages.together("openvino int8", "cpu") as part:
        part.run("build", 1, counted([]), target="cpu")
    assert isinstance(stages.listener, Told)
    assert [line[-1] for line in stages.listener.lines if line[0] == "finished"] == ["made", "made"]
    again = Stages(stages.store, Told())
    again.run("build", 1, counted([]), target="cpu")
    assert again.listener.lines[-1][-1] == "cached"


def redone(stages: Stages) -> tuple[str, ...]:
    """Why the last stage that was done again was."""
    assert isinstance(stages.listener, Told)
    told = [line for line in stages.listener.lines if line[0] == "redone"]
    return told[-1][2:] if told else ()


OPTIONS = {"budget": 0.5, "deep": {"a": 1}}
FIRST = {"code": {"net.py": "sha256:1"}, "data": "sha256:2", "options": OPTIONS, "unit": "sha256:3"}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"code": {"net.py": "sha256:9"}}, "code changed: net.py"),
        ({"code": {"net.py": "sha256:1", "parts.py": "sha256:4"}}, "code changed: parts.py"),
        ({"data": "sha256:9"}, "data changed"),
        ({"unit": "sha256:9"}, "model changed"),
        ({"options": {**OPTIONS, "budget": 0.25}}, "option budget changed: 0.5 → 0.25"),
        ({"options": {**OPTIONS, "deep": {"a": 2}}}, "option deep.a changed: 1 → 2"),
        ({"files": {"m.onnx": "sha256:5"}}, "files changed"),
        ({"statistics": {"x": {"low": 0.0}}}, "ranges changed"),
        (
            {"data": "sha256:9", "unit": "sha256:9", "code": {}, "seed": 1, "x": 2},
            "code changed: net.py; seed changed; x changed; 2 more",
        ),
    ],
)
def test_a_stage_that_is_done_again_says_why(
    stages: Stages, changes: dict[str, object], why: str
) -> None:
    stages.run("s", FIRST, counted([]), target="cpu")
    other = Stages(stages.store, Told(), owner="another recipe")
    other.run("s", {**FIRST, "seed": 9}, counted([]), target="cpu")
    again = Stages(stages.store, Told())
    again.run("s", {**FIRST, **changes}, counted([]), target="cpu")
    assert in_words(redone(again)) == why


def test_only_the_first_of_a_name_in_a_compile_is_compared_with_the_last(stages: Stages) -> None:
    for plan in range(3):
        stages.run("trial", {"plan": plan}, counted([]))
    again = Stages(stages.store, Told())
    for plan in range(5):
        again.run("trial", {"plan": plan}, counted([]))
    assert not [line for line in again.listener.lines if line[0] == "redone"]


def compiled(
    stages: Stages, identity: dict[str, object], inputs: object, *, fresh: bool = False
) -> tuple[str, ...]:
    """A compile of one stage; why it was done again."""
    again = Stages(stages.store, Told(), fresh)
    again.begin("cpu", identity)
    again.run("s", inputs, counted([]), target="cpu")
    again.end("cpu", identity)
    return redone(again)


def test_what_comes_of_earlier_work_is_done_again_for_what_a_person_changed(
    stages: Stages,
) -> None:
    assert compiled(stages, {"code": {"helper.py": "sha256:1"}}, {"data": "sha256:1"}) == ()
    why = compiled(stages, {"code": {"helper.py": "sha256:2"}}, {"data": "sha256:2"})
    assert why == ("code changed: helper.py",)
    inputs = {"data": "sha256:3", "seed": 1, "held": ["sha256:9"]}
    assert compiled(stages, {"seed": 1}, {**inputs, "seed": 0})
    assert compiled(stages, {"seed": 2, "x": 1}, {**inputs, "held": ["a"]}) == (
        "seed changed: 0 → 1",
    )


def test_a_stage_that_the_last_compile_did_not_run_is_not_compared_with_an_older_one(
    stages: Stages,
) -> None:
    first, second = {"recipe": {"seed": 1}}, {"recipe": {"seed": 2}}
    compiled(stages, first, {"seed": 1})
    assert compiled(stages, second, {"seed": 2}) == ("seed changed: 1 → 2",)
    back = Stages(stages.store, Told())  # the first's result is there: no stage runs
    back.begin("cpu", first)
    back.end("cpu", first)
    third = {"recipe": {"seed": 1, "batch": 8}}
    assert compiled(stages, third, {"seed": 1, "batch": 8}) == ("batch changed",)


def test_a_fresh_compile_says_that_it_is_one(stages: Stages) -> None:
    assert compiled(stages, {"seed": 1}, {"data": 1}, fresh=True) == ()  # nothing was there
    assert compiled(stages, {"seed": 1}, {"data": 1}, fresh=True) == ("--fresh",)
    assert compiled(stages, {"seed": 2}, {"data": 2}, fresh=True) == ("--fresh",)
