"""Calibration samples from a folder: images, or .npy and .npz files, read as they are asked for.

Nothing is kept, so a folder may be larger than memory. Files are mixed, always in the same way:
where only the first samples are looked at, they are not all of one sub-folder. A folder holds
either images of one size, or arrays (samples first; `x` in an .npz) of one shape and type. There
are no labels.
"""

from __future__ import annotations

import itertools
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from rtc.compiler.core.arrays import Array
from rtc.compiler.core.data import Preprocess, Split
from rtc.compiler.core.errors import DataError
from rtc.compiler.core.hashing import digest, file_digest

IMAGES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_ARRAYS = frozenset({".npy", ".npz"})
_MODES = {"hw": "L", "hwc": "RGB"}
_NAMED = 3  # of many broken files

SampleForm = tuple[tuple[int, ...], str]
"""Shape of one sample and the dtype's name."""


@dataclass(frozen=True)
class _File:
    path: Path
    count: int
    sample: SampleForm


@dataclass(frozen=True)
class _Samples:
    """What a split takes slices of: reads the files behind a slice, and no others."""

    files: Sequence[_File]
    ends: Sequence[int]  # of each file, in samples from the start
    read: Callable[[Path], Array]

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, wanted: slice) -> Array:
        start, stop, _ = wanted.indices(len(self))
        shape, dtype = self.files[0].sample
        parts = [np.empty((0, *shape), dtype), *self._parts(start, stop)]
        return np.concatenate(parts)

    def _parts(self, start: int, stop: int) -> Iterator[Array]:
        while start < stop:
            index = bisect_right(self.ends, start)
            file = self.files[index]
            first = self.ends[index] - file.count
            part = self.read(file.path)[start - first : stop - first]
            _check_finite(part, file.path, start - first)
            yield part
            start += len(part)


def folder_split(folder: Path, preprocess: Preprocess) -> Split:
    """The samples of a folder, sub-folders included, as a calibration split without labels.

    Every file's header is looked at, and none is decoded.

    Raises:
        DataError: no samples, images and arrays together, samples that differ in shape or type, or
            files that cannot be read (counted, the first three named); when a slice is read: a
            file whose content is broken, a value that is not finite.
    """
    files, read = _readable(folder, sample_files(folder), preprocess)
    # A split only ever takes slices of its raw samples, and these give arrays.
    samples = cast(Array, _Samples(files, _ends(files), read))
    return Split("calibration", samples, None, preprocess)


def listed_samples(path: Path, preprocess: Preprocess) -> tuple[Array, tuple[str, ...]]:
    """The samples of a picture or a folder in the order of their names, and a name for each.

    Raises:
        DataError: as `folder_split`.
    """
    if not path.exists():
        raise DataError("there is no such file", where=str(path), id="missing-file")
    paths = [path] if path.is_file() else sorted(sample_files(path))
    files, read = _readable(path, paths, preprocess)
    names = tuple(
        str(file.path.relative_to(path) if file.path != path else path.name)
        + (f"[{index}]" if file.count > 1 else "")
        for file in files
        for index in range(file.count)
    )
    return cast(Array, _Samples(files, _ends(files), read)), names


def _readable(
    folder: Path, paths: Sequence[Path], preprocess: Preprocess
) -> tuple[list[_File], Callable[[Path], Array]]:
    """What the headers of files say, and what reads one of them."""
    images = [path for path in paths if path.suffix.lower() in IMAGES]
    if images and len(images) < len(paths):
        odd = next(path for path in paths if path not in images)
        raise DataError("images and arrays together", where=str(folder), seen=odd.name)
    if images and preprocess.layout not in _MODES:
        raise DataError(
            f'images do not fit the layout "{preprocess.layout}"',
            where=str(folder),
            expected='data.preprocess.layout "hw" (grey) or "hwc" (colour)',
            id="wrong-layout",
        )

    def read(path: Path) -> Array:
        return _image(path, _MODES[preprocess.layout])[None] if images else _array(path)

    files = _looked_at(paths, preprocess.layout if images else "")
    _check_alike(folder, files)
    if not any(file.count for file in files):
        raise DataError("there are no samples", where=str(folder), id="no-samples")
    return files, read


def _ends(files: Sequence[_File]) -> tuple[int, ...]:
    return tuple(itertools.accumulate(file.count for file in files))


def folder_digest(folder: Path) -> str:
    """A digest of the names and the content of the samples' files."""
    return digest(
        {path.relative_to(folder).as_posix(): file_digest(path) for path in sample_files(folder)}
    )


def sample_files(folder: Path) -> list[Path]:
    """The files of a folder that hold samples, mixed, and always in the same way.

    Raises:
        DataError: there are none.
    """
    kinds = IMAGES | _ARRAYS
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() in kinds]
    if not paths:
        raise DataError(
            "there are no samples",
            where=str(folder),
            expected=f"files ending in {', '.join(sorted(kinds))}",
            id="no-samples",
        )
    return sorted(paths, key=lambda path: digest(path.relative_to(folder).as_posix()))


def _looked_at(paths: Sequence[Path], layout: str) -> list[_File]:
    """The headers of all files; those that are broken are told of together."""
    files, broken = [], []
    for path in paths:
        try:
            count, sample = (1, _image_header(path, layout)) if layout else _array_header(path)
        except DataError as error:
            broken.append(error)
        else:
            files.append(_File(path, count, sample))
    if broken:
        raise DataError(
            f"{len(broken)} of {len(paths)} files cannot be read",
            where=str(paths[0].parent),
            seen="; ".join(str(error) for error in broken[:_NAMED]),
            fix="mend or remove them",
            id="unreadable-samples",
        )
    return files


def _check_alike(folder: Path, files: Sequence[_File]) -> None:
    first = files[0]
    odd = [file for file in files if file.sample != first.sample]
    if odd:
        raise DataError(
            f"{len(odd)} of {len(files)} files differ in shape or type from the first",
            where=str(folder),
            seen=f"{odd[0].path.name}: {_called(odd[0].sample)}",
            expected=f"{_called(first.sample)}, as {first.path.name}",
            fix="crop or scale them as the model's own images were",
            id="mixed-samples",
        )


def _called(sample: SampleForm) -> str:
    return f"{' × '.join(map(str, sample[0]))} {sample[1]}"


def _image_header(path: Path, layout: str) -> SampleForm:
    width, height = _opened(path, lambda image: image.size)
    return ((height, width) if layout == "hw" else (height, width, 3)), "uint8"


def _image(path: Path, mode: str) -> Array:
    """An image as uint8 (height, width) or (height, width, 3): grey or RGB, whatever it was."""
    pixels: Array = _opened(path, lambda image: np.asarray(image.convert(mode)))
    return pixels


def _opened(path: Path, use: Callable[..., Array]) -> Array:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return use(image)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError, Warning) as e:
        raise DataError(
            f"not an image, or a broken one: {type(e).__name__}", where=path.name, id="broken-image"
        ) from e


def _array_header(path: Path) -> tuple[int, SampleForm]:
    array = _array(path)
    return len(array), (array.shape[1:], str(array.dtype))


def _array(path: Path) -> Array:
    """The samples (N, …) of a file; an .npy file's stay on the disk until they are used."""
    try:
        if path.suffix.lower() == ".npy":
            array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            with np.load(path, allow_pickle=False) as archive:
                array = archive["x"]
    except Exception as cause:
        expected = "an .npy file, or an .npz file with an array x"
        raise DataError(
            "not an array of plain numbers", where=path.name, expected=expected, id="broken-array"
        ) from cause
    if array.dtype.kind not in "buif" or array.ndim < 2:
        raise DataError(
            "not samples", where=path.name, seen=f"{array.dtype} {array.shape}", id="broken-array"
        )
    return array


def _check_finite(part: Array, path: Path, first: int) -> None:
    if part.dtype.kind != "f":
        return
    bad = ~np.isfinite(part).reshape(len(part), -1).all(axis=1)
    if bad.any():
        raise DataError(
            "a sample is NaN or infinite",
            where=str(path),
            seen=f"sample {first + int(bad.argmax())}",
            id="not-finite-sample",
        )
