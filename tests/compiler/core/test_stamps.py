"""Files whose content is known from before, by what the file system says of them alone."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from rtc.compiler.core import hashing, stamps
from rtc.compiler.core.hashing import digest, file_digest

_TICK_S = 0.02  # of the clock that a file system takes its times from


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamps, "_SETTLED_NS", 0)


def test_what_is_new_or_missing_has_no_stamp(tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"1")
    assert stamps.stamps([tmp_path / "new"]) is None
    assert stamps.stamps([tmp_path / "new"], time.time_ns() + 10**10) is not None
    assert stamps.stamps([tmp_path / "missing"]) is None
    assert stamps.stamps([]) == {}


def test_an_old_time_that_was_set_makes_no_file_old(tmp_path: Path) -> None:
    (tmp_path / "copied").write_bytes(b"1")
    os.utime(tmp_path / "copied", (0, 0))
    assert stamps.stamps([tmp_path / "copied"]) is None


@pytest.mark.usefixtures("settled")
def test_what_changed_since_a_reading_began_has_no_stamp(tmp_path: Path) -> None:
    begun = time.time_ns()
    time.sleep(_TICK_S)
    (tmp_path / "a").write_bytes(b"1")
    assert stamps.stamps([tmp_path / "a"], begun) is None


@pytest.mark.usefixtures("settled")
def test_a_digest_is_taken_once_and_follows_the_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, taken, sha256 = tmp_path / "a", [], hashing.hashlib.sha256
    file.write_bytes(b"one")
    wanted = {content: digest(content) for content in (b"one", b"two", b"six")}
    monkeypatch.setattr(hashing.hashlib, "sha256", lambda: taken.append(1) or sha256())
    time.sleep(_TICK_S)
    assert file_digest(file) == file_digest(file) == wanted[b"one"]
    assert len(taken) == 1
    before = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file_digest(file) == wanted[b"two"]
    (tmp_path / "b").write_bytes(b"six")
    os.utime(tmp_path / "b", ns=(before.st_atime_ns, before.st_mtime_ns))
    (tmp_path / "b").replace(file)
    assert file_digest(file) == wanted[b"six"]
