"""German road signs in GTSRB's own layout: PPM images, and CSV files that give each its region.

Stallkamp et al., "Man vs. computer: Benchmarking machine learning algorithms for traffic sign
recognition", Neural Networks 32 (2012). Nothing is downloaded: unpack the archives where you like.
`signs43.write_gtsrb` writes drawn signs in the same layout.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from rtc.compiler.core.arrays import Array, Int64Array, UInt8Array
from rtc.compiler.core.data import Dataset, Preprocess
from rtc.compiler.core.errors import DataError, MachineError, RecipeError
from rtc.compiler.core.hashing import digest, file_digest
from rtc.recipes.datasets.clahe import equalise

CLASSES = 43
PREPROCESS = Preprocess(
    scale=1 / 255, mean=(0.340, 0.312, 0.321), std=(0.272, 0.261, 0.267), layout="hwc"
)
COLUMNS = ("Filename", "Width", "Height", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId")

_LARGEST = 4096 * 4096  # pixels; a header may promise more than memory holds
_SHOWN = 5
_NUMBER = re.compile(r"\d{1,9}")
_FRAME = re.compile(r"(\d{5})_\d{5}\.ppm")  # of a track: one sign, photographed from a moving car


@dataclass(frozen=True)
class Sign:
    """A row of a CSV: an image, its region (left, top, right, bottom; the last two excluded)."""

    path: Path
    size: tuple[int, int]
    region: tuple[int, int, int, int]
    label: int


def gtsrb(*, path: str, size: int = 32, clahe: bool = False) -> Dataset:
    """All images below a folder that a `GT-*.csv` names: uint8 (N, size, size, 3), RGB.

    Each is cropped to its region and resized (bilinear, averaged where it shrinks). The frames of a
    track, photographs of one sign, are a group: they look alike and go to one split. What the CSV
    files say and the sizes of the images identify the data; no image is read for that.

    Args:
        path: the folder with the class folders, or one above it; relative to where rtc runs.
        size: width and height in pixels, 16 to 256.
        clahe: equalise the contrast of each image, see `clahe.equalise`.

    Raises:
        RecipeError: a size out of range.
        DataError: no such folder, no CSV in it, or a CSV that is not GTSRB's. When loaded: an
            image that is not there, cannot be read, or is not of the size that its CSV gives.
        MachineError: Pillow is not installed. When loaded.
    """
    if not 16 <= size <= 256:
        raise RecipeError("gtsrb: size is out of range", seen=str(size), expected="16 to 256")
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise DataError("no such folder", where=str(folder), id="no-data-folder")
    tables = sorted(folder.rglob("GT-*.csv"))
    signs = [sign for table in tables for sign in _read_table(table)]
    if not signs:
        raise DataError(
            "no images in GTSRB's layout",
            where=str(folder),
            seen=f"{len(tables)} files GT-*.csv without a row" if tables else "no file GT-*.csv",
            expected="class folders 00000 to 00042, a GT-<class>.csv in each",
            id="no-data-file",
        )
    identity = {
        "options": {"size": size, "clahe": clahe},
        "tables": {str(table.relative_to(folder)): file_digest(table) for table in tables},
        "images": [_bytes(sign.path) for sign in signs],
        "code": [file_digest(Path(__file__)), file_digest(Path(__file__).with_name("clahe.py"))],
    }
    return Dataset(
        "gtsrb",
        CLASSES,
        digest(identity),
        PREPROCESS,
        lambda: _load(signs, size, clahe),
        _tracks(signs),
    )


def _tracks(signs: list[Sign]) -> Int64Array:
    """A number for each sign's track; an image whose name tells of none is a track of its own."""
    names = (
        (sign.path.parent, frame[1] if (frame := _FRAME.fullmatch(sign.path.name)) else sign.path)
        for sign in signs
    )
    numbers: dict[tuple[Path, str | Path], int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def _bytes(path: Path) -> int:
    """The size of a file; -1 where there is none, which `_load` tells of."""
    return path.stat().st_size if path.is_file() else -1


def _read_table(table: Path) -> Iterator[Sign]:
    """The rows of a CSV.

    Raises:
        DataError: not GTSRB's columns, or a row that cannot be right; the line is named.
    """
    try:
        rows = list(csv.DictReader(table.read_text("ascii").splitlines(), delimiter=";"))
    except (UnicodeDecodeError, csv.Error) as cause:
        raise DataError(
            f"not a CSV file: {cause}", where=str(table), id="malformed-table"
        ) from cause
    for line, row in enumerate(rows, start=2):
        missing = [name for name in COLUMNS if row.get(name) is None]
        if missing:
            raise DataError(
                f"no value for {', '.join(missing)}",
                where=f"{table}:{line}",
                expected=";".join(COLUMNS),
                id="malformed-table",
            )
        yield _sign(row, table, f"{table}:{line}")


def _sign(row: Mapping[str, str], table: Path, where: str) -> Sign:
    name, *fields = (row[column] for column in COLUMNS)
    if not all(_NUMBER.fullmatch(field) for field in fields) or Path(name).name != name:
        raise DataError(
            "not a file name and whole numbers",
            where=where,
            seen=";".join((name, *fields)),
            expected=";".join(COLUMNS),
            id="malformed-table",
        )
    width, height, left, top, right, bottom, label = map(int, fields)
    if not (left < right <= width and top < bottom <= height):
        raise DataError(
            "the region is not inside the image",
            where=where,
            seen=f"({left}, {top}) to ({right}, {bottom})",
            expected=f"inside {width}×{height}",
            id="region-outside",
        )
    if label >= CLASSES:
        raise DataError(
            "a label is out of range",
            where=where,
            seen=str(label),
            expected=f"0 to {CLASSES - 1}",
            id="label-out-of-range",
        )
    return Sign(table.parent / name, (width, height), (left, top, right, bottom), label)


def _load(signs: list[Sign], size: int, clahe: bool) -> tuple[Array, Int64Array]:
    """Every image, or all the ones that cannot be used, counted and the first few named."""
    pillow = _pillow()
    images = np.empty((len(signs), size, size, 3), np.uint8)
    faults: list[str] = []
    for index, sign in enumerate(signs):
        try:
            image = _cropped(pillow, sign, size)
        except (OSError, ValueError, SyntaxError) as cause:
            faults.append(f"{sign.path.parent.name}/{sign.path.name}: {cause}")
            continue
        images[index] = equalise(image) if clahe else image
    if faults:
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise DataError(
            f"{len(faults)} of {len(signs)} images cannot be used",
            where=str(signs[0].path.parents[1]),
            seen="; ".join(faults[:_SHOWN]) + more,
            fix="unpack the archive again, or take their rows out of the CSV",
            id="corrupt-image",
        )
    return images, np.array([sign.label for sign in signs], np.int64)


def _cropped(pillow: ModuleType, sign: Sign, size: int) -> UInt8Array:
    """The region of an image, resized: uint8 (size, size, 3).

    Raises:
        OSError, ValueError, SyntaxError: it cannot be read, or has another size than its CSV says.
    """
    if sign.size[0] * sign.size[1] > _LARGEST:
        raise ValueError(f"too large: {sign.size[0]}×{sign.size[1]}")
    with pillow.open(sign.path, formats=("PPM",)) as image:  # the header alone
        if image.size != sign.size:
            raise ValueError(f"{image.size[0]}×{image.size[1]}, not as its CSV says")
        region = image.convert("RGB").crop(sign.region)
        resized = region.resize((size, size), pillow.Resampling.BILINEAR)
    return np.asarray(resized, np.uint8)


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError as cause:
        raise MachineError(
            "reading images needs Pillow, which is not installed",
            where="rtc.recipes.datasets.gtsrb:gtsrb",
            fix="pip install 'rtc-compiler[vision]'",
            id="missing-extra",
        ) from cause
    return Image
