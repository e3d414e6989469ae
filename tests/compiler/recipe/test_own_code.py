"""What a piece of work stands on, seen on a copy of rtc's source of which files are changed."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from rtc.compiler.recipe import own_code
from rtc.compiler.recipe.own_code import code_digest, code_of

TRAINING = "rtc.passes.torch.train"
FRONT = "rtc.compiler.frontend.float_model"
BUILDING = "rtc.compiler.building.builder"
MEASURING = "rtc.compiler.select.measuring"
ALL = (TRAINING, FRONT, BUILDING, MEASURING)
_CACHES = (own_code._marks, own_code._imported, own_code._file_digest, own_code._path)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("source")
    for top in own_code._TOPS:
        spec = importlib.util.find_spec(f"rtc.{top}")
        assert spec is not None
        shutil.copytree(Path(spec.origin).parent, root / top)
    return root


@pytest.fixture
def source(copied: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(own_code, "_folder", lambda top: copied / top)
    forget()
    yield copied
    forget()


def forget() -> None:
    for cached in _CACHES:
        cached.cache_clear()


def changed(source: Path, file: str) -> set[str]:
    """The modules that are other work once a file has changed."""
    before = {module: code_of([module]) for module in ALL}
    kept = (source / file).read_bytes()
    (source / file).write_bytes(kept + b"\n# changed\n")
    forget()
    try:
        return {module for module in ALL if code_of([module]) != before[module]}
    finally:
        (source / file).write_bytes(kept)
        forget()


@pytest.mark.parametrize(
    "file",
    [
        "compiler/report/page.css",
        "compiler/report/html.py",
        "compiler/cli/main.py",
        "compiler/publish/report_content.py",
        "compiler/pipeline.py",
        "compiler/search/trial.py",
    ],
)
def test_work_that_a_file_has_no_part_in_stays_the_same(source: Path, file: str) -> None:
    assert changed(source, file) == set()


@pytest.mark.parametrize(
    ("file", "others", "same"),
    [
        ("passes/torch/training.py", {TRAINING, FRONT}, set()),
        ("compiler/core/data.py", set(ALL), set()),
        ("compiler/building/engines.py", {BUILDING, MEASURING}, {TRAINING, FRONT}),
    ],
)
def test_work_that_a_file_has_part_in_is_other_work(
    source: Path, file: str, others: set[str], same: set[str]
) -> None:
    found = changed(source, file)
    assert found >= others
    assert not found & same


def test_the_entry_of_a_child_process_counts_though_it_is_named_as_text(source: Path) -> None:
    entry = source / "compiler/frontend/axes.py"
    assert '"rtc.compiler.frontend.axes:settle_files"' in entry.read_text()
    assert FRONT in changed(source, "compiler/frontend/axes.py")


def test_a_pass_counts_for_the_stage_that_it_makes(source: Path) -> None:
    runner = "rtc.compiler.execution.certified_pass"
    before = code_of([runner, TRAINING])
    kept = (source / "passes/torch/training.py").read_bytes()
    (source / "passes/torch/training.py").write_bytes(kept + b"\n")
    forget()
    assert code_of([runner, TRAINING]) != before
    (source / "passes/torch/training.py").write_bytes(kept)


def test_all_of_the_source_is_one_digest(source: Path) -> None:
    before = code_digest()
    page = source / "compiler/report/page.css"
    page.write_text(page.read_text() + "\n")
    forget()
    assert code_digest() != before


def test_other_peoples_modules_are_no_code_of_rtcs() -> None:
    assert code_of(["numpy.linalg", "__main__"]) == code_of([])
