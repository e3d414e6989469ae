"""Durable writes: what gets its final name is whole, and on the disk.

    draft folder `.tmp-…` → write and fsync each file → fsync the draft → rename → fsync its parent

A draft is hidden, and locked for as long as its writer lives. The kernel drops the lock with the
writer, so the next writer in the same folder tells a dead writer's draft from a living one's and
can clear it away; no process id has to be believed.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from rtc.compiler.core.errors import MachineError

HIDDEN = ".tmp-"

_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}
_NO_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}
_NO_LOCKS = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.ENOLCK, errno.EBADF}  # NFS: EBADF

_NO_PERMISSION = ("no-permission", "permission denied", "{elsewhere}")
_NOT_A_FOLDER = ("not-a-folder", "is not a folder", "{elsewhere}")
_TOO_MANY = ("too-many-files", "too many open files", "raise the limit: ulimit -n 4096")
_CAUSES = {  # errno: id, what, fix
    errno.ENOSPC: ("disk-full", "the disk is full", "free some space, or {elsewhere}"),
    errno.EDQUOT: ("disk-full", "the disk quota is used up", "free some space, or {elsewhere}"),
    errno.EROFS: ("read-only", "is read-only", "{elsewhere}"),
    errno.EACCES: _NO_PERMISSION,
    errno.EPERM: _NO_PERMISSION,
    errno.EMFILE: _TOO_MANY,
    errno.ENFILE: _TOO_MANY,
    errno.EIO: ("disk-error", "the disk reports an error", "check the disk, or {elsewhere}"),
    errno.ENOTDIR: _NOT_A_FOLDER,
    errno.EEXIST: _NOT_A_FOLDER,
}


@contextmanager
def drafting(folder: Path) -> Iterator[Path]:
    """An empty hidden folder inside `folder`; gone afterwards, unless it was given another name."""
    draft, lock = _new_draft(folder)
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # what is left over is hidden, and cleared later
        if lock is not None:
            os.close(lock)


def clear_stale(folder: Path) -> None:
    """Remove the drafts in `folder` whose writers are dead."""
    for draft in folder.glob(f"{HIDDEN}*"):
        with suppress(OSError):  # clearing is a courtesy; the work at hand does not depend on it
            lock = _lock(draft)
            shutil.rmtree(draft, ignore_errors=True)
            os.close(lock)


def write_files(draft: Path, files: Mapping[str, bytes]) -> None:
    """Write new files, in order, and see each of them on the disk."""
    for name, content in files.items():
        stream = os.open(draft / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            rest = memoryview(content)
            while rest.nbytes:
                rest = rest[os.write(stream, rest) :]
            os.fsync(stream)
        finally:
            os.close(stream)
    sync_folder(draft)


def settle(draft: Path, final: Path, *, replace: bool) -> bool:
    """Give a draft its final name in one step; whether it stands there now.

    Both lie on one file system, since drafts are made beside what they become. Where something has
    that name already: it stays and the draft too, or, with `replace`, they change places.
    """
    while True:
        try:
            draft.rename(final)
            break
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
        if not replace:
            return False
        with suppress(FileNotFoundError):  # removed meanwhile: the name is free
            _exchange(draft, final)
            break
    sync_folder(final.parent)
    return True


def point(link: Path, to: str) -> None:
    """Let the symbolic link `link` lead to its sibling `to`, atomically."""
    if link.is_symlink() and link.readlink() == Path(to):
        return
    with drafting(link.parent) as draft:
        (draft / "link").symlink_to(to)
        (draft / "link").replace(link)
    sync_folder(link.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, and see each of them on the disk."""
    missing = [path for path in (folder, *folder.parents) if not path.is_dir()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """See a folder's list of names on the disk: a rename is durable only after this."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def explained(folder: Path, *, elsewhere: str, needed: int = 0) -> Iterator[None]:
    """Turn what the operating system says into one clear line.

    Args:
        folder: what the user knows as the place that is read or written.
        elsewhere: how the user chooses another one: "choose another folder with --out DIR".
        needed: bytes about to be written, if known.

    Raises:
        MachineError: for every OSError raised inside; `id` tells the causes apart.
    """
    try:
        yield
    except OSError as error:
        raise _machine_error(error, folder, elsewhere, needed) from error


def _machine_error(error: OSError, folder: Path, elsewhere: str, needed: int) -> MachineError:
    unknown = ("file-system", error.strerror or str(error), "{elsewhere}")
    name, what, fix = _CAUSES.get(error.errno or 0, unknown)
    full = name == "disk-full"
    precise = isinstance(error.filename, str) and Path(error.filename).is_absolute()
    return MachineError(
        what,
        where=str(error.filename if precise and not full else folder),
        seen=f"{_megabytes(_free_bytes(folder))} free" if full else "",
        expected=_megabytes(needed) if full and needed else "",
        fix=fix.format(elsewhere=elsewhere),
        id=name,
    )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _free_bytes(folder: Path) -> int:
    standing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(standing).free


def _new_draft(folder: Path) -> tuple[Path, int | None]:
    """A new draft and the lock held on it; None on a file system that cannot lock a folder."""
    while True:
        draft = folder / f"{HIDDEN}{secrets.token_hex(8)}"
        draft.mkdir()
        try:
            lock = _lock(draft)
        except (FileNotFoundError, BlockingIOError):
            continue  # another writer took it for stale before it was locked
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return draft, None
            raise
        if draft.is_dir():
            return draft, lock
        os.close(lock)


def _lock(draft: Path) -> int:
    """Lock a draft: an open descriptor that holds the lock until it is closed.

    Raises:
        BlockingIOError: its writer, or another that clears it, holds the lock.
    """
    handle = os.open(draft, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle


def _exchange(draft: Path, final: Path) -> None:
    """Swap two names. By Linux's RENAME_EXCHANGE, so that `final` is never absent.

    Where the file system or the C library has no such call, `final` is absent for the moment
    between two renames; it is never partial.
    """
    code = _rename_exchange()(os.fsencode(draft), os.fsencode(final))
    if code in _NO_EXCHANGE:
        _exchange_in_three(draft, final)
    elif code:
        raise OSError(code, os.strerror(code), str(final))


def _exchange_in_three(draft: Path, final: Path) -> None:
    with drafting(final.parent) as holder:
        final.rename(holder / "old")
        try:
            draft.rename(final)
        except OSError:
            (holder / "old").rename(final)
            raise
        (holder / "old").rename(draft)


@functools.cache
def _rename_exchange() -> Callable[[bytes, bytes], int]:
    """The exchange of two paths by the C library: 0, or an errno."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    at_cwd, rename_exchange = -100, 2  # linux/fcntl.h, linux/fs.h

    def call(one: bytes, other: bytes) -> int:
        if function is None:
            return errno.ENOSYS
        failed = function(at_cwd, one, at_cwd, other, rename_exchange)
        return ctypes.get_errno() if failed else 0

    return call
