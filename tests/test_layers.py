"""The contracts of imports hold, and a wrong import anywhere breaks them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOPS = ("compiler", "passes", "calibration", "targets", "recipes")
LINT = (
    "import sys; from importlinter.cli import lint_imports; "
    "sys.exit(lint_imports(config_filename=sys.argv[1], no_cache=True))"
)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source as an importable `rtc`, with the contracts beside it."""
    folder = tmp_path_factory.mktemp("layers")
    for top in TOPS:
        shutil.copytree(ROOT / top, folder / "rtc" / top)
    shutil.copy(ROOT / "pyproject.toml", folder / "pyproject.toml")
    return folder


def linted(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LINT, str(folder / "pyproject.toml")],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_contracts_hold_for_the_source_as_it_is(copied: Path) -> None:
    done = linted(copied)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("compiler/core/hashing.py", "rtc.compiler.storage.sealed"),
        ("compiler/core/limits.py", "pydantic"),
        ("compiler/report/figures.py", "rtc.compiler.diagnose.culprits"),
        ("compiler/search/trial.py", "rtc.compiler.candidates.offer"),
        ("compiler/storage/store.py", "rtc.compiler.process.sandbox"),
        ("passes/graph/fold_constants.py", "rtc.targets.loader"),
        ("calibration/collect.py", "rtc.passes.registry"),
    ],
)
def test_a_wrong_import_breaks_a_contract(copied: Path, module: str, imported: str) -> None:
    file = copied / "rtc" / module
    kept = file.read_text(encoding="utf-8")
    file.write_text(f"{kept}\n\ndef _planted() -> None:\n    import {imported}\n", encoding="utf-8")
    try:
        done = linted(copied)
    finally:
        file.write_text(kept, encoding="utf-8")
    assert done.returncode == 1, done.stdout + done.stderr
    assert imported in done.stdout


def test_a_room_that_no_layer_names_breaks_the_contract(copied: Path) -> None:
    room = copied / "rtc" / "compiler" / "attic"
    room.mkdir()
    (room / "__init__.py").touch()
    try:
        done = linted(copied)
    finally:
        shutil.rmtree(room)
    assert done.returncode == 1
    assert "attic" in done.stdout + done.stderr
