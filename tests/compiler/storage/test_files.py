import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rtc.compiler.core.errors import MachineError
from rtc.compiler.storage import files as durable

HOLDER = """
import sys, time
from pathlib import Path
from rtc.compiler.storage import files
with files.drafting(Path(sys.argv[1])) as draft:
    (draft / "half").write_bytes(b"x")
    print(draft.name, flush=True)
    time.sleep(60)
"""


def drafts(folder: Path) -> list[Path]:
    return sorted(folder.glob(".tmp-*"))


def test_a_draft_that_was_not_settled_is_gone_even_after_an_error(tmp_path: Path) -> None:
    with durable.drafting(tmp_path) as draft:
        durable.write_files(draft, {"a": b"1"})
        assert drafts(tmp_path) == [draft]
    assert drafts(tmp_path) == []
    with pytest.raises(FileNotFoundError), durable.drafting(tmp_path) as draft:
        durable.write_files(draft / "no", {"a": b"1"})
    assert drafts(tmp_path) == []


def test_a_dead_writers_draft_is_cleared_and_a_living_ones_is_not(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        held = tmp_path / holder.stdout.readline().strip()
        durable.clear_stale(tmp_path)
        assert drafts(tmp_path) == [held]
        holder.send_signal(signal.SIGKILL)
    durable.clear_stale(tmp_path)
    assert drafts(tmp_path) == []


def test_everything_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[tuple[str, str]] = []

    def logged(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(subject: Any, *rest: object) -> object:
            path = Path(f"/proc/self/fd/{subject}").readlink() if name == "fsync" else subject
            log.append((name, Path(path).name))
            return real(subject, *rest)

        return call

    with durable.drafting(tmp_path) as draft:
        monkeypatch.setattr(os, "fsync", logged("fsync", os.fsync))
        monkeypatch.setattr(Path, "rename", logged("rename", Path.rename))
        durable.write_files(draft, {"a": b"1", "b": b""})
        durable.settle(draft, tmp_path / "final", replace=False)
    name = draft.name
    expected = [("fsync", "a"), ("fsync", "b"), ("fsync", name), ("rename", name)]
    assert log == [*expected, ("fsync", tmp_path.name)]


def test_a_folder_is_made_with_its_parents_and_no_file_is_mistaken_for_one(tmp_path: Path) -> None:
    durable.make_folder(tmp_path / "a" / "b")
    durable.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileExistsError):
        durable.make_folder(tmp_path / "file" / "c")


@pytest.fixture(params=["one step", "three steps"])
def way_to_exchange(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "three steps":
        unsupported = lambda: lambda one, other: errno.EINVAL  # noqa: E731 - two levels of call
        monkeypatch.setattr(durable, "_rename_exchange", unsupported)


@pytest.mark.usefixtures("way_to_exchange")
@pytest.mark.parametrize("old", ["folder", "file"])
def test_settle_keeps_or_replaces_what_has_the_name(tmp_path: Path, old: str) -> None:
    final = tmp_path / "final"
    if old == "folder":
        final.mkdir()
        (final / "old").write_bytes(b"")
    else:
        final.write_bytes(b"")
    with durable.drafting(tmp_path) as draft:
        durable.write_files(draft, {"new": b""})
        assert not durable.settle(draft, final, replace=False)
        assert not (final / "new").exists()
        assert durable.settle(draft, final, replace=True)
        assert (final / "new").exists()
        assert draft.is_file() or (draft / "old").exists()


def test_an_exchange_in_three_steps_that_fails_puts_the_old_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "_rename_exchange", lambda: lambda one, other: errno.ENOSYS)
    final = tmp_path / "final"
    final.mkdir()
    (final / "old").write_bytes(b"")
    rename = Path.rename

    def failing(source: Path, to: Path) -> Path:
        if to == final and source.name != "old":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(source, to)

    with durable.drafting(tmp_path) as draft:
        monkeypatch.setattr(Path, "rename", failing)
        with pytest.raises(OSError, match="Input/output"):
            durable._exchange(draft, final)
    assert (final / "old").exists()


def test_a_link_moves_and_stays_relative(tmp_path: Path) -> None:
    for name in ("a", "b", "b"):
        (tmp_path / name).mkdir(exist_ok=True)
        durable.point(tmp_path / "latest", name)
        assert (tmp_path / "latest").readlink() == Path(name)
    assert drafts(tmp_path) == []


@pytest.mark.parametrize(
    ("code", "id", "says"),
    [
        (errno.ENOSPC, "disk-full", "the disk is full"),
        (errno.EDQUOT, "disk-full", "quota"),
        (errno.EROFS, "read-only", "is read-only"),
        (errno.EACCES, "no-permission", "permission denied"),
        (errno.EPERM, "no-permission", "permission denied"),
        (errno.EMFILE, "too-many-files", "ulimit -n"),
        (errno.EIO, "disk-error", "check the disk"),
        (errno.ENOTDIR, "not-a-folder", "is not a folder"),
        (errno.ENAMETOOLONG, "file-system", "File name too long"),
    ],
)
def test_each_refusal_of_the_system_is_one_clear_line(
    tmp_path: Path, code: int, id: str, says: str
) -> None:
    explained = durable.explained(tmp_path / "out", elsewhere="use --out DIR", needed=3_500_000)
    with pytest.raises(MachineError, match=says) as caught, explained:
        raise OSError(code, os.strerror(code))
    error = caught.value
    assert (error.id, error.exit_code) == (id, 5)
    assert str(error).startswith(str(tmp_path / "out"))
    assert "\n" not in str(error)
    if id == "disk-full":
        assert error.seen.endswith("MB free")
        assert error.expected == "3.5 MB"


def test_the_file_that_the_system_names_is_the_one_that_we_name(tmp_path: Path) -> None:
    with pytest.raises(MachineError) as caught, durable.explained(tmp_path, elsewhere="-"):
        (tmp_path / "a" / "b").write_bytes(b"")
    assert caught.value.where == str(tmp_path / "a" / "b")
