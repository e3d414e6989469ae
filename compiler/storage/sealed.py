"""Sealed folders: some files, and a head that lists every one of them by size and SHA-256.

A head is JSON in one fixed form, and holds a digest of itself. So no byte of the folder can change,
go or come without being refused: a listed file by its digest, the head by its own digest or by its
form, any other name by not being listed. Store entries and bundles are both sealed folders.

This finds every accident and every edit. It does not stop somebody who writes a new head to match:
only a signature over the head can, and then covers all the rest.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rtc.compiler.core.errors import IntegrityError, InternalError
from rtc.compiler.core.hashing import digest

MAX_HEAD_BYTES = 16 << 20
MAX_TOTAL_BYTES = 16 << 30  # sizes are claims until read; a sparse file can claim anything

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WRONG_KIND = {
    errno.ELOOP: "is a symbolic link",
    errno.ENXIO: "is a socket",
    errno.ENOTDIR: "is not a folder",
}


@dataclass(frozen=True)
class FileDigest:
    """What a file must be: the hex SHA-256 of its content, and its size in bytes."""

    sha256: str
    bytes: int


def listing(files: Mapping[str, bytes]) -> dict[str, FileDigest]:
    """The `files` entry of a head.

    Raises:
        InternalError: a name that no sealed folder may hold; see `_unsafe`.
    """
    if problem := _unsafe(files):
        raise InternalError(problem, id="file-name")
    return {
        name: FileDigest(hashlib.sha256(content).hexdigest(), len(content))
        for name, content in sorted(files.items())
    }


def render(head: Mapping[str, Any]) -> bytes:
    """A head's one and only form: sorted, indented, ASCII, with its `digest`."""
    whole = {**head, "digest": digest(head)}
    return (json.dumps(whole, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def parse(raw: bytes, *, schema: int, where: str) -> dict[str, Any]:
    """The head that `render` was given; `schema` is the newest that the caller understands.

    Raises:
        IntegrityError: made by a newer rtc, or not byte for byte what `render` gives.
    """
    try:
        head = json.loads(raw)
        if not isinstance(head, dict):
            raise refused("is not a JSON object", where)
        _refuse_newer(head.get("schema"), schema, where)
        head.pop("digest", None)
        if render(head) != raw:
            raise refused("was changed after it was written", where)
    except (ValueError, RecursionError) as cause:
        raise refused("is not the JSON that was written", where) from cause
    return head


def read_sealed(
    folder: Path, head_name: str, *, schema: int
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The head and the files of a sealed folder: the bytes returned are the bytes checked.

    Raises:
        IntegrityError: a changed, missing, extra or renamed file, a link or a special file.
        OSError: the folder is not there, or cannot be read.
    """
    with _opened(folder, folder, os.O_DIRECTORY) as handle:
        try:
            return _contents(handle, folder, head_name, schema)
        except IntegrityError:
            if os.path.samestat(os.fstat(handle), folder.stat()):
                raise
    # It was replaced while it was read, and the old one taken apart: read what stands there now.
    return read_sealed(folder, head_name, schema=schema)


def refused(what: str, where: Path | str, seen: str = "", expected: str = "") -> IntegrityError:
    """The error for a sealed folder that is not as it was written."""
    fix = "do not use it: compile again, or copy it again from where it came"
    return IntegrityError(what, where=str(where), seen=seen, expected=expected, fix=fix)


def _contents(
    handle: int, folder: Path, head_name: str, schema: int
) -> tuple[dict[str, Any], dict[str, bytes]]:
    place = folder / head_name
    head = parse(_read(handle, place, None), schema=schema, where=str(place))
    listed = _listed(head, str(place))
    names = {entry.name for entry in os.scandir(handle)}
    _refuse_other_names(names, {head_name, *listed}, folder)
    return head, {name: _read(handle, folder / name, entry) for name, entry in listed.items()}


def _refuse_newer(seen: object, known: int, where: str) -> None:
    if type(seen) is int and seen > known:
        raise IntegrityError(
            "made by a newer rtc",
            where=where,
            seen=f"schema {seen}",
            expected=f"≤ {known}",
            fix="upgrade: pip install --upgrade rtc-compiler",
            id="newer-schema",
        )
    if type(seen) is not int or seen < 1:
        raise refused("has no schema", where, seen=repr(seen)[:40])


def _listed(head: Mapping[str, Any], where: str) -> dict[str, FileDigest]:
    """The `files` of a head, once their names, digests and sizes make sense."""
    try:
        listed = {name: FileDigest(**fields) for name, fields in head["files"].items()}
    except (KeyError, AttributeError, TypeError) as cause:
        raise refused("does not list its files", where) from cause
    if problem := _unsafe(listed):
        raise refused(problem, where)
    for name, entry in listed.items():
        sound = isinstance(entry.sha256, str) and _SHA256.fullmatch(entry.sha256)
        if not sound or type(entry.bytes) is not int or entry.bytes < 0:
            raise refused(f"has no digest of {name}", where, seen=repr(asdict(entry))[:90])
    total = sum(entry.bytes for entry in listed.values())
    if total > MAX_TOTAL_BYTES:
        raise refused("is too large", where, f"{total} bytes", f"≤ {MAX_TOTAL_BYTES} bytes")
    return listed


def _unsafe(names: Mapping[str, object]) -> str:
    """What is wrong with these file names on some file system, or ""."""
    for name in names:
        if not _NAME.fullmatch(name):
            return f"{name[:80]!r} is not a file name that is safe everywhere"
    folded = [name.lower() for name in names]
    twice = sorted({name for name in folded if folded.count(name) > 1})
    return f"file names differ only by case: {', '.join(twice)}" if twice else ""


def _refuse_other_names(seen: set[str], expected: set[str], folder: Path) -> None:
    if seen == expected:
        return
    missing = ", ".join(sorted(expected - seen))
    extra = ", ".join(sorted(map(ascii, seen - expected))[:8])
    sides = [f"missing {missing}"] * bool(missing) + [f"not listed {extra}"] * bool(extra)
    raise refused(f"does not hold the files that were written: {'; '.join(sides)}", folder)


def _read(handle: int, place: Path, expected: FileDigest | None) -> bytes:
    """One regular file of the folder open at `handle`; only the head has no expected digest."""
    try:
        with _opened(place.name, place, os.O_NOFOLLOW | os.O_NONBLOCK, handle) as stream:
            size = _regular_size(stream, place)
            limit = MAX_HEAD_BYTES if expected is None else expected.bytes
            if size > limit or (expected and size != limit):
                least = "" if expected else "≤ "
                raise refused("was changed", place, f"{size} bytes", f"{least}{limit} bytes")
            content = _exactly(stream, size, place)
    except FileNotFoundError as cause:
        raise refused("is missing", place) from cause
    seen = hashlib.sha256(content).hexdigest()
    if expected and seen != expected.sha256:
        raise refused("was changed", place, f"SHA-256 {seen[:12]}…", f"{expected.sha256[:12]}…")
    return content


@contextmanager
def _opened(name: str | Path, place: Path, flags: int, within: int | None = None) -> Iterator[int]:
    try:
        handle = os.open(name, os.O_RDONLY | flags, dir_fd=within)
    except OSError as error:
        if error.errno in _WRONG_KIND:
            raise refused(_WRONG_KIND[error.errno], place) from error
        raise
    try:
        yield handle
    finally:
        os.close(handle)


def _regular_size(stream: int, place: Path) -> int:
    facts = os.fstat(stream)
    if not stat.S_ISREG(facts.st_mode):
        raise refused("is not a regular file", place)
    if facts.st_nlink != 1:  # a second name is a way to change it from outside
        raise refused("has other names (hard links)", place)
    return facts.st_size


def _exactly(stream: int, size: int, place: Path) -> bytes:
    """`size` bytes, and no more than that, however the file grows meanwhile."""
    content = bytearray()
    while chunk := os.read(stream, min(1 << 20, size + 1 - len(content))):
        content += chunk
    if len(content) != size:
        raise refused("was changed", place, f"{len(content)} bytes", f"{size} bytes")
    return bytes(content)
