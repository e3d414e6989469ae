"""A content-addressed store of results: what was computed once is not computed again.

    <root>/entries/<key>/      a sealed folder: the result's files and `index.json`
    <root>/quarantine/…        entries that were not as they were written
    <root>/locks/<key>.lock    held while a result is looked up or made
    <root>/last/<key>.json     notes of what was asked for last; nothing rests on them

Every read is checked. A damaged entry is moved aside, told of, and counts as absent, so a store can
cost time but can never give a wrong result; deleting it is always safe.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rtc.compiler.core.errors import IntegrityError, InternalError, MachineError
from rtc.compiler.core.hashing import canonical, digest
from rtc.compiler.core.progress import Nobody
from rtc.compiler.storage import files as durable
from rtc.compiler.storage import sealed

SCHEMA = 1
INDEX = "index.json"

_KEY = re.compile(r"[0-9a-f]{64}")
_quiet = Nobody().warned
_ELSEWHERE = "set RTC_CACHE to another folder"


@dataclass(frozen=True)
class StoreInfo:
    """What a store holds; `bytes` counts entries and quarantine."""

    path: Path
    entries: int
    bytes: int
    quarantined: int


@dataclass(frozen=True)
class Cleared:
    """What `clear` removed."""

    entries: int
    bytes: int


@dataclass(frozen=True)
class Store:
    """Results by key. Any number of processes may use one store at once.

    `warn` is told, in one line each, of damaged entries and of waiting for another process. Every
    method that touches the disk raises MachineError when the disk refuses.
    """

    root: Path
    warn: Callable[[str], None] = _quiet

    @classmethod
    def default(cls, warn: Callable[[str], None] = _quiet) -> Store:
        """The user's store: the folder that RTC_CACHE names, or the platform's cache folder."""
        named = os.environ.get("RTC_CACHE")
        if named:
            return cls(Path(named), warn)
        from platformdirs import user_cache_path

        root = user_cache_path("rtc")
        if not root.is_absolute():
            raise MachineError("no home folder, so no place for the cache", fix=_ELSEWHERE)
        return cls(root, warn)

    @staticmethod
    def key(parts: object) -> str:
        """The key of a result: 64 hex digits over JSON that says all that it depends on."""
        return digest({"store": SCHEMA, "parts": parts}).removeprefix("sha256:")

    def get(self, key: str) -> dict[str, bytes] | None:
        """The files of an entry, checked; None where there is no whole entry."""
        entry = self._entry(key)
        with self._explained():
            try:
                head, files = sealed.read_sealed(entry, INDEX, schema=SCHEMA)
                if head.get("key") != key:
                    raise sealed.refused("is another entry", entry)
            except FileNotFoundError:
                return None
            except IntegrityError as error:
                self._quarantine(entry, error)
                return None
        return files

    def put(self, key: str, files: Mapping[str, bytes], *, replace: bool = False) -> None:
        """Keep a result, whole or not at all; what another process kept first stays.

        Args:
            key: from `key`.
            files: the result; plain file names, `index.json` excepted.
            replace: take the place of what is there, in one step.
        """
        entry = self._entry(key)
        if INDEX in files:
            raise InternalError(f"{INDEX} is the store's own file", id="file-name")
        listed = {name: asdict(listed_file) for name, listed_file in sealed.listing(files).items()}
        index = sealed.render({"schema": SCHEMA, "key": key, "files": listed})
        with self._explained(needed=sum(map(len, files.values()))):
            durable.make_folder(entry.parent)
            durable.clear_stale(entry.parent)
            with durable.drafting(entry.parent) as draft:
                durable.write_files(draft, {**files, INDEX: index})
                durable.settle(draft, entry, replace=replace)

    def recall(self, key: str) -> Any:
        """The note that was left under a key; None where there is none that can be read."""
        with self._explained(), suppress(FileNotFoundError, ValueError):
            return json.loads((self.root / "last" / f"{key}.json").read_bytes())
        return None

    def remember(self, key: str, note: Any) -> None:
        """Leave a note, JSON types, for the next compile."""
        path = self.root / "last" / f"{key}.json"
        with self._explained():
            durable.make_folder(path.parent)
            durable.clear_stale(path.parent)
            with durable.drafting(path.parent) as draft:
                durable.write_files(draft, {path.name: canonical(note)})
                (draft / path.name).replace(path)

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Held by one process at a time, so that two compiles share work instead of doubling it.

        The kernel releases it with its process, however that ends.
        """
        from filelock import FileLock, Timeout

        path = self._entry(key).parents[1] / "locks" / f"{key}.lock"
        with self._explained():
            durable.make_folder(path.parent)
            # A lock that is only a file's existence would outlive a killed process.
            held = FileLock(path, fallback_to_soft=False)
            try:
                held.acquire(timeout=0.2)
            except Timeout:
                self.warn("waiting for another compile that makes the same result")
                held.acquire()
        try:
            yield
        finally:
            held.release()

    def info(self) -> StoreInfo:
        """Count what the store holds; entries that come or go meanwhile may be missed."""
        with self._explained():
            entries, quarantined = self._entries(), self._quarantined()
            size = sum(map(_size, [*entries, *quarantined]))
            return StoreInfo(self.root, len(entries), size, len(quarantined))

    def clear(self, older_than_days: float | None = None) -> Cleared:
        """Remove entries, quarantined ones too: all, or those kept longer ago than that."""
        newest = None if older_than_days is None else time.time() - older_than_days * 86400
        count = freed = 0
        with self._explained():
            for entry in [*self._entries(), *self._quarantined()]:
                with suppress(FileNotFoundError):  # another process was quicker
                    if newest is not None and entry.stat().st_mtime > newest:
                        continue
                    size = _size(entry)
                    with durable.drafting(entry.parent) as trash:
                        entry.rename(trash / entry.name)  # so that no reader sees half of it
                    count, freed = count + 1, freed + size
            self._clear_locks()
            for note in _folders(self.root / "last"):
                note.unlink(missing_ok=True)
        return Cleared(count, freed)

    def _clear_locks(self) -> None:
        """Remove the lock files whose entry is gone and that nobody holds.

        Who opened one just before it went would lock a file without a name, and share its work with
        nobody: it is done twice then, and the first result stays.
        """
        from filelock import FileLock, Timeout

        for path in _folders(self.root / "locks"):
            if (self.root / "entries" / path.stem).exists():
                continue
            with suppress(Timeout), FileLock(path, timeout=0, fallback_to_soft=False):
                path.unlink(missing_ok=True)

    def _entry(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise InternalError("not a store key", seen=repr(key)[:80], id="store-key")
        return self.root / "entries" / key

    def _entries(self) -> list[Path]:
        return [path for path in _folders(self.root / "entries") if _KEY.fullmatch(path.name)]

    def _quarantined(self) -> list[Path]:
        return _folders(self.root / "quarantine")

    def _quarantine(self, entry: Path, error: IntegrityError) -> None:
        aside = self.root / "quarantine" / f"{entry.name[:16]}-{secrets.token_hex(4)}"
        durable.make_folder(aside.parent)
        try:
            entry.rename(aside)
        except FileNotFoundError:
            return  # it was being removed, or another process has moved it
        self.warn(f"damaged cache entry moved to {aside}, and made again: {error.what}")

    def _explained(self, needed: int = 0) -> AbstractContextManager[None]:
        return durable.explained(self.root, elsewhere=_ELSEWHERE, needed=needed)


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(path for path in parent.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        return []


def _size(folder: Path) -> int:
    total = 0
    with suppress(FileNotFoundError, NotADirectoryError):  # removed meanwhile, or a stray file
        for path in folder.iterdir():
            total += path.stat().st_size
    return total
