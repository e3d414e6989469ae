from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from rtc.compiler.core.errors import DataError, MachineError, RecipeError
from rtc.recipes.datasets.clahe import equalise
from rtc.recipes.datasets.gtsrb import gtsrb
from rtc.recipes.datasets.signs43 import Camera, write_gtsrb

HEAD = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gtsrb") / "Final_Training" / "Images"
    write_gtsrb(folder, samples=86, seed=2)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy to damage: classes 3 and 4."""
    for name in ("00003", "00004"):
        shutil.copytree(written / name, tmp_path / name)
    return tmp_path


def write_table(folder: Path, *rows: str) -> None:
    (folder / "00003" / "GT-00003.csv").write_text("\n".join((HEAD, *rows)) + "\n")


def test_the_layout_is_gtsrbs(written: Path) -> None:
    assert sorted(path.name for path in written.iterdir()) == [f"{n:05d}" for n in range(43)]
    lines = (written / "00007" / "GT-00007.csv").read_text().splitlines()
    assert lines[0] == HEAD
    name, width, height, left, top, right, bottom, label = lines[2].split(";")
    assert (name, label) == ("00001_00000.ppm", "7")
    image = (written / "00007" / name).read_bytes()
    assert image.startswith(f"P6\n{width} {height}\n255\n".encode())
    assert len(image) == len(f"P6\n{width} {height}\n255\n") + int(width) * int(height) * 3
    assert 5 <= int(left) == int(top)
    assert int(right) == int(bottom) == int(width) - int(left)


def test_the_loader_gives_what_was_drawn(written: Path) -> None:
    raw, labels = gtsrb(path=str(written.parents[1]), size=48).load()
    assert raw.shape == (86, 48, 48, 3)
    assert labels is not None
    assert labels.tolist() == [label for label in range(43) for _ in range(2)]
    drawn = Camera(1.0, 2).shoot(np.arange(86), 48).astype(float)
    order = [label + 43 * track for label in range(43) for track in range(2)]
    apart = np.abs(raw - drawn[order]).mean(axis=(1, 2, 3))
    other = np.abs(raw - drawn[np.roll(order, 2)]).mean(axis=(1, 2, 3))
    assert np.median(apart) < 0.3 * np.median(other)


def test_only_the_region_is_seen(folder: Path) -> None:
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[4:16, 10:22] = (200, 100, 50)
    name = folder / "00003" / "marked.ppm"
    name.write_bytes(b"P6\n30 20\n255\n" + pixels.tobytes())
    write_table(folder, "marked.ppm;30;20;10;4;22;16;3")
    raw, labels = gtsrb(path=str(folder / "00003")).load()
    assert labels is not None
    assert labels.tolist() == [3]
    assert np.array_equal(np.unique(raw.reshape(-1, 3), axis=0), [[200, 100, 50]])


def test_the_frames_of_a_track_are_a_group(folder: Path) -> None:
    names = ("00000_00000.ppm", "00000_00001.ppm", "00001_00000.ppm", "00000.ppm", "00001.ppm")
    write_table(folder, *(f"{name};30;30;5;5;25;25;3" for name in names))
    groups = gtsrb(path=str(folder / "00003")).groups
    assert groups is not None
    assert groups.tolist() == [0, 0, 1, 2, 3]


def test_the_digest_sees_tables_files_and_options_and_reads_no_image(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    path = str(folder)
    digests = [gtsrb(path=path).digest, gtsrb(path=path, size=64).digest]
    assert gtsrb(path=path).digest == digests[0]
    digests.append(gtsrb(path=path, clahe=True).digest)
    image = folder / "00004" / "00000_00000.ppm"
    image.write_bytes(image.read_bytes() + b"\0")
    digests.append(gtsrb(path=path).digest)
    shutil.rmtree(folder / "00004")
    digests.append(gtsrb(path=path).digest)
    assert len(set(digests)) == 5
    with pytest.raises(MachineError) as missing:
        gtsrb(path=path).load()
    assert missing.value.fix == "pip install 'rtc-compiler[vision]'"


@pytest.mark.parametrize(
    ("row", "id", "message"),
    [
        ("a.ppm;30;30;5;5;31;25;3", "region-outside", r"GT-00003.csv:2.*\(5, 5\) to \(31, 25\)"),
        ("a.ppm;30;30;25;5;25;25;3", "region-outside", "not inside the image"),
        ("a.ppm;30;30;5;5;25;25;43", "label-out-of-range", "seen 43, expected 0 to 42"),
        ("a.ppm;30;30;5;5;25;25", "malformed-table", "no value for ClassId"),
        ("a.ppm;30;30;5;-5;25;25;3", "malformed-table", "whole numbers"),
        ("../a.ppm;30;30;5;5;25;25;3", "malformed-table", "not a file name"),
    ],
)
def test_a_table_that_cannot_be_right(folder: Path, row: str, id: str, message: str) -> None:
    write_table(folder, row)
    with pytest.raises(DataError, match=message) as refused:
        gtsrb(path=str(folder))
    assert refused.value.id == id


def test_another_tables_columns_are_named(folder: Path) -> None:
    (folder / "00003" / "GT-00003.csv").write_text("file,class\na.ppm,3\n")
    with pytest.raises(DataError, match="no value for Filename, Width"):
        gtsrb(path=str(folder))
    (folder / "00003" / "GT-00003.csv").write_bytes(b"\xff\xfe\0\0")
    with pytest.raises(DataError, match="not a CSV file"):
        gtsrb(path=str(folder))


def test_images_that_cannot_be_used_are_counted_and_some_named(folder: Path) -> None:
    place = folder / "00003"
    whole = (folder / "00004" / "00000_00000.ppm").read_bytes()
    (place / "cut.ppm").write_bytes(b"P6\n30 30\n255\n" + bytes(100))
    (place / "text.ppm").write_text("no image")
    (place / "other.ppm").write_bytes(whole)
    (place / "vast.ppm").write_bytes(b"P6\n90000 90000\n255\n")
    rows = [f"{name}.ppm;30;30;5;5;25;25;3" for name in ("cut", "text", "other", "absent")]
    rows += ["vast.ppm;90000;90000;5;5;25;25;3"] + ["absent.ppm;30;30;5;5;25;25;3"] * 3
    write_table(folder, *rows)
    with pytest.raises(DataError, match="8 of 10 images cannot be used") as refused:
        gtsrb(path=str(folder)).load()
    assert refused.value.id == "corrupt-image"
    for part in (
        "cut.ppm: ",
        "text.ppm: ",
        "other.ppm: ",
        "absent.ppm: ",
        "too large",
        "and 3 more",
    ):
        assert part in refused.value.seen


def test_folders_without_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        gtsrb(path=str(tmp_path / "absent"))
    with pytest.raises(DataError, match="no file GT-"):
        gtsrb(path=str(tmp_path))
    with pytest.raises(RecipeError, match="size is out of range"):
        gtsrb(path=str(tmp_path), size=8)


def test_clahe_raises_contrast_and_keeps_hue() -> None:
    random = np.random.default_rng(0)
    grey = random.integers(100, 130, (32, 32, 1)).astype(np.uint8)
    equalised = equalise(np.repeat(grey, 3, axis=2))
    assert equalised.std() > 2 * grey.std()
    assert np.ptp(equalised.astype(int), axis=2).max() <= 1  # grey stays grey
    gentle = equalise(np.repeat(grey, 3, axis=2), limit=1.0)
    assert gentle.std() < equalised.std(), "the limit limits"


def test_clahe_is_local_and_has_no_seams() -> None:
    steps = np.repeat(np.linspace(20, 235, 64).astype(np.uint8)[None, :, None], 64, axis=0)
    ramp = np.repeat(steps, 3, axis=2)
    rows = equalise(ramp)[..., 0].astype(int)
    assert (rows == rows[0]).all(), "every row alike, across the tiles' borders"
    assert np.abs(np.diff(rows[0])).max() < 40, "no jump between tiles"
    half = ramp.copy()
    half[:, 48:] = 0
    np.testing.assert_array_equal(equalise(half)[:, :16], equalise(ramp)[:, :16])


def test_clahe_equals_equalisation_of_the_whole_where_all_tiles_are_alike() -> None:
    tile = np.random.default_rng(1).permutation(256).astype(np.uint8).reshape(16, 16)
    image = np.repeat(np.tile(tile, (4, 4))[..., None], 3, axis=2)
    # Each tile holds every level once, so the mapping of level v is v + 1 of 256, times 255.
    expected = np.rint((image.astype(float) + 1) * 255 / 256)
    np.testing.assert_allclose(equalise(image).astype(float), expected, atol=1)


def test_clahe_option_changes_the_images(folder: Path) -> None:
    plain, _ = gtsrb(path=str(folder)).load()
    equal, _ = gtsrb(path=str(folder), clahe=True).load()
    assert equal.astype(float).std() > plain.astype(float).std()
