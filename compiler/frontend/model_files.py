"""The files of an ONNX model: the model itself, and those beside it that hold weights.

A model names such files itself, so their names are not trusted: each must be a plain file at or
below the model's own folder, reached through no link. A file is read once: the bytes that are
digested are those that are compiled. Which files a model names is found out in a child process, as
everything is that parses a model.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from rtc.compiler.core.errors import ModelError, RtcError, first_line
from rtc.compiler.core.hashing import digest
from rtc.compiler.core.protos import byte_size, is_outside, tensors
from rtc.compiler.core.stamps import Stamp, stamps
from rtc.compiler.process import sandbox

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

MODEL = "model.onnx"
"""The model's own bytes among the files that a child process is given."""

PARSE_SECONDS = 120.0
PARSE_GB = 8.0
_LARGEST = (1 << 31) - 1  # protobuf's own limit
_KEY = b"location"  # stands in every model that names another file
_BESIDE = "beside/"  # before the location of a file, among those that a child is given
_known: dict[str, list[str]] = {}  # locations by the digest of the model's own bytes
_digests: dict[tuple[Path, str], tuple[dict[str, Stamp], dict[str, str]]] = {}
"""Digests of a model's files by its path and name, and the stamps that they had."""
_WRONG_KIND = {errno.ELOOP: "a link", errno.ENOTDIR: "a link, or no folder"}


@dataclass(frozen=True)
class ModelFiles:
    """A model's own bytes, and those of every file that holds weights of it, by location."""

    proto: bytes
    beside: Mapping[str, bytes]

    def digests(self, name: str) -> dict[str, str]:
        """The digest of each file; that of the model under `name`, the others from its folder."""
        folder = PurePosixPath(name).parent
        named = {name: self.proto}
        named |= {str(folder / location): content for location, content in self.beside.items()}
        return {each: digest(content) for each, content in named.items()}

    def for_child(self) -> dict[str, bytes]:
        """The files as `sandbox.run` takes them; `parsed` puts them together there."""
        return {MODEL: self.proto} | {_BESIDE + name: b for name, b in self.beside.items()}


def read_model_files(path: Path) -> ModelFiles:
    """Read an ONNX file, and every file that it says its weights are in.

    Raises:
        ModelError: an empty file or no model; more bytes than a protobuf can be; a file of weights
            that is missing ("missing-external-data") or must not be read ("external-data").
    """
    proto = path.read_bytes()
    if not proto:
        raise ModelError("the ONNX file is empty", where=str(path), id="empty-model")
    beside: dict[str, bytes] = {}
    left = _LARGEST - len(proto)
    if left >= 0 and _KEY in proto:
        for location in _locations(path, proto):
            beside[location] = _content(path.parent, location, left)
            left -= len(beside[location])
    if left < 0:
        raise _too_large(path)
    return ModelFiles(proto, beside)


def model_digests(path: Path, name: str) -> dict[str, str]:
    """Of the files that `read_model_files` gives; they are read once while they are as they were.

    Raises:
        ModelError: as `read_model_files`.
    """
    key = path.absolute(), name  # the same relative path may come to be another file's
    known = _digests.get(key)
    if known is not None and stamps(map(Path, known[0])) == known[0]:
        return known[1]
    begun = time.time_ns()
    files = read_model_files(path)
    digests = files.digests(name)
    seen = stamps([path, *(path.parent / location for location in files.beside)], begun)
    if seen is not None:
        _digests[key] = seen, digests
    return digests


def _too_large(where: Path) -> ModelError:
    return ModelError(
        "the model and its weights are larger than a protobuf can be",
        where=str(where),
        expected="under 2 GB in all",
        id="too-large",
    )


def _locations(path: Path, proto: bytes) -> list[str]:
    """The files that a model names; a compile asks several times, so what was found is kept."""
    key = digest(proto)
    if key in _known:
        return _known[key]
    with reading(path):
        made = sandbox.run(
            "rtc.compiler.frontend.model_files:list_locations",
            files={MODEL: proto},
            args={},
            deadline_s=PARSE_SECONDS,
            memory_gb=PARSE_GB,
            what=f"reading {path.name}",
        )
    _known[key] = json.loads(made["locations.json"])
    return _known[key]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Errors of a child that reads this file say which one."""
    try:
        yield
    except ModelError as error:
        error.where = f"{path}: {error.where}" if error.where else str(path)
        raise


@contextmanager
def refusing_nonsense() -> Iterator[None]:
    """What nobody foresaw in a file that is no sound model is that file's fault, too."""
    try:
        yield
    except (RtcError, MemoryError):
        raise
    except Exception as cause:
        seen = f"{type(cause).__name__}: {first_line(cause)}"
        raise ModelError("not a sound ONNX model", seen=seen, id="unreadable-model") from cause


@refusing_nonsense()
def list_locations(files: Mapping[str, bytes], _: Mapping[str, Any]) -> dict[str, bytes]:
    """The files that a model names, as JSON; for a child process."""
    model = parse(files[MODEL])
    locations = {entry(t).get("location", ""): None for t in tensors(model) if is_outside(t)}
    return {"locations.json": json.dumps(list(locations)).encode()}


def entry(tensor: TensorProto) -> dict[str, str]:
    """Where a tensor says that its values lie: location, offset and length, as they stand there."""
    return {pair.key: pair.value for pair in tensor.external_data}


def parse(proto: bytes) -> ModelProto:
    """The model of these bytes, without its weights beside.

    Raises:
        ModelError: no model ("unreadable-model"), or one that holds nothing ("empty-model").
    """
    import onnx

    try:
        model = onnx.load_from_string(proto)
    except Exception as cause:
        raise ModelError(
            "not an ONNX model, or a truncated one", seen=first_line(cause), id="unreadable-model"
        ) from cause
    if not model.HasField("graph"):
        raise ModelError("the ONNX model holds no graph", id="empty-model")
    return model


def parsed(files: Mapping[str, bytes]) -> ModelProto:
    """The model with every weight inside; for a child process.

    Raises:
        ModelError: as `parse`, or an offset or length that its file does not have.
    """
    model = parse(files[MODEL])
    for tensor in tensors(model):
        if is_outside(tensor):
            tensor.raw_data = _values(tensor, files)
            tensor.ClearField("data_location")
        tensor.ClearField("external_data")
    return model


def _values(tensor: TensorProto, files: Mapping[str, bytes]) -> bytes:
    """The bytes of a tensor whose values lie beside the model."""
    said = entry(tensor)
    content = files[_BESIDE + said.get("location", "")]
    try:
        size = byte_size(tensor)
        offset, length = _number(said.get("offset"), 0), _number(said.get("length"), size)
    except ValueError as cause:
        raise _outside(tensor, said, len(content)) from cause
    if length != size or offset + size > len(content):
        raise _outside(tensor, said, len(content))
    return content[offset : offset + size]


def _number(text: str | None, or_else: int) -> int:
    if text is None:
        return or_else
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError(text)
    return int(text)


def _outside(tensor: TensorProto, said: Mapping[str, str], size: int) -> ModelError:
    return ModelError(
        "a weight does not lie where the model says",
        where=tensor.name,
        seen=f"offset {said.get('offset', 0)}, length {said.get('length', 'not given')} for"
        f" {list(tensor.dims)} in {size} bytes of {said.get('location')!r}",
        fix="export the model and its weights again, together",
        id="external-data",
    )


def size_of(folder: Path, location: str) -> int:
    """Bytes of a file that a model in that folder names.

    Raises:
        ModelError: as `read_model_files`.
    """
    with _opened(folder, location) as handle:
        return os.fstat(handle).st_size


def _content(folder: Path, location: str, most: int) -> bytes:
    """The bytes of a file that a model in that folder names, of `most` at most."""
    with _opened(folder, location) as handle:
        size = os.fstat(handle).st_size
        if size > most:
            raise _too_large(folder / location)
        with os.fdopen(os.dup(handle), "rb") as stream:
            return stream.read(size)


@contextmanager
def _opened(folder: Path, location: str) -> Iterator[int]:
    """A plain file of one name, at or below a folder, by no link."""
    parts = [part for part in location.split("/") if part not in ("", ".")]
    if not parts or location.startswith("/") or ".." in parts or "\0" in location:
        raise _refused(folder, location, "not a path below the model's folder")
    handles: list[int] = []
    try:
        handles.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
        for part in parts[:-1]:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            handles.append(os.open(part, flags, dir_fd=handles[-1]))
        # A FIFO without a writer would be waited for.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        handles.append(os.open(parts[-1], flags, dir_fd=handles[-1]))
        _refuse_other_kinds(handles[-1], folder, location)
        yield handles[-1]
    except FileNotFoundError as cause:
        raise ModelError(
            "the model's weights lie in a file that is not there",
            where=str(folder / location),
            fix="copy it beside the model, as it was exported",
            id="missing-external-data",
        ) from cause
    except OSError as cause:
        reason = _WRONG_KIND.get(cause.errno or 0, cause.strerror or "unreadable")
        raise _refused(folder, location, reason) from cause
    finally:
        for handle in handles:
            os.close(handle)


def _refuse_other_kinds(handle: int, folder: Path, location: str) -> None:
    facts = os.fstat(handle)
    if not stat.S_ISREG(facts.st_mode):
        raise _refused(folder, location, "not a regular file")
    if facts.st_nlink != 1:  # a second name is a way to change it from outside
        raise _refused(folder, location, "a file with other names (hard links)")


def _refused(folder: Path, location: str, reason: str) -> ModelError:
    return ModelError(
        "weights are not read from there",
        where=str(folder),
        seen=f"{location[:200]!r}: {reason}",
        expected="a plain file at or below the model's folder",
        fix="copy the file there, or save the model with its weights inside",
        id="external-data",
    )
