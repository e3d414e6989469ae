"""Data that was read before is not read again to name it, and never named for what it was."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from rtc.calibration import data
from rtc.compiler.core import stamps
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.data import Splits
from rtc.compiler.core.errors import DataError
from rtc.compiler.frontend.samples import calibration_digest, splits_of
from rtc.compiler.recipe.schema import Recipe, load_recipe
from rtc.compiler.storage.store import Store

RECIPE = """\
recipe: 1
name: tiny
version: 1.0.0
source: {onnx: model.onnx}
data: {npz: samples.npz, classes: 3, split: {train: 0.0, calibration: 0.5, test: 0.5}}
"""
_TICK_S = 0.02  # of the clock that a file system takes its times from


class Reader:
    """Counts how often the samples were read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, read = 0, data._read_npz

        def counted(path: Path) -> tuple[Array, Array]:
            self.count += 1
            return read(path)

        monkeypatch.setattr(data, "_read_npz", counted)


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Reader:
    monkeypatch.setattr(stamps, "_SETTLED_NS", 0)  # tests do not wait
    return Reader(monkeypatch)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def written(folder: Path, value: float = 0.0, more: str = "") -> Recipe:
    (folder / "model.onnx").write_bytes(b"")
    samples = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
    samples[5, 0] = value
    time.sleep(_TICK_S)
    np.savez(folder / "samples.npz", x=samples, y=np.arange(12) % 3)
    (folder / "recipe.yaml").write_text(RECIPE + more)
    return load_recipe(folder / "recipe.yaml")


def named(recipe: Recipe, store: Store | None) -> str:
    return splits_of(recipe, store).digest


def test_samples_are_read_once_for_their_name(tmp_path: Path, store: Store, reader: Reader) -> None:
    recipe = written(tmp_path)
    first = named(recipe, store)
    assert (named(recipe, store), reader.count) == (first, 1)
    assert (named(recipe, None), reader.count) == (first, 2)  # as with --fresh
    splits = splits_of(recipe, store)
    assert len(splits.test) == 6
    assert (splits.digest, reader.count) == (first, 3)


@pytest.mark.parametrize("how", ["written again", "another file in its place"])
def test_content_that_changed_has_another_name_whatever_its_time_and_size(
    tmp_path: Path, store: Store, reader: Reader, how: str
) -> None:
    recipe, file = written(tmp_path), tmp_path / "samples.npz"
    first, before = named(recipe, store), file.stat()
    if how == "another file in its place":
        (tmp_path / "new").mkdir()
        written(tmp_path / "new", 1.0)
        (tmp_path / "new" / "samples.npz").replace(file)
    else:
        written(tmp_path, 1.0)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert named(recipe, store) != first
    assert reader.count == 2


def test_a_file_that_was_written_just_now_is_read_in_any_case(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, recipe = Reader(monkeypatch), written(tmp_path)
    assert named(recipe, store) == named(recipe, store)
    assert reader.count == 2


@pytest.mark.parametrize(
    "text",
    [
        RECIPE + "seed: 1\n",
        RECIPE.replace("calibration: 0.5", "calibration: 0.25"),
        RECIPE.replace("classes: 3", "classes: 4"),
        RECIPE.replace("classes: 3", "classes: 3, preprocess: {scale: 2.0}"),
    ],
    ids=["seed", "fractions", "classes", "preprocess"],
)
def test_what_is_made_of_the_samples_has_a_name_of_its_own(
    tmp_path: Path, store: Store, reader: Reader, text: str
) -> None:
    first = named(written(tmp_path), store)
    (tmp_path / "recipe.yaml").write_text(text)
    other = load_recipe(tmp_path / "recipe.yaml")
    assert named(other, store) == named(other, None) != first


def test_samples_that_changed_after_they_were_named_are_not_taken(
    tmp_path: Path, store: Store, reader: Reader
) -> None:
    named(recipe := written(tmp_path), store)
    splits: Splits = splits_of(recipe, store)
    assert splits.digest
    written(tmp_path, 1.0)
    with pytest.raises(DataError, match="changed since they were looked at"):
        _ = splits.test


def test_a_damaged_note_counts_as_none(tmp_path: Path, store: Store, reader: Reader) -> None:
    recipe = written(tmp_path)
    first = named(recipe, store)
    (note,) = (tmp_path / "store").rglob("digest.txt")
    note.chmod(0o644)
    note.write_bytes(b"sha256:0")
    assert named(recipe, store) == first
    assert reader.count == 2


def test_a_folder_for_calibration_is_remembered_likewise(
    tmp_path: Path, store: Store, reader: Reader
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    np.save(folder / "a.npy", np.zeros((3, 4), np.float32))
    recipe = written(tmp_path, more="calibration: {path: here}\n")
    first = calibration_digest(recipe, store)
    assert calibration_digest(recipe, store) == first == calibration_digest(recipe, None)
    whole = named(recipe, store)
    for change in (
        lambda: np.save(folder / "a.npy", np.ones((3, 4), np.float32)),
        lambda: (folder / "a.npy").rename(folder / "b.npy"),
        lambda: np.save(folder / "c.npy", np.ones((3, 4), np.float32)),
    ):
        time.sleep(_TICK_S)
        change()
        second = calibration_digest(recipe, store)
        assert second == calibration_digest(recipe, None) != first
        assert named(recipe, store) != whole
        first, whole = second, named(recipe, store)
