import hashlib
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from rtc.compiler.core.errors import IntegrityError, InternalError
from rtc.compiler.storage import sealed

FILES = {"a.bin": b"alpha", "b.json": b"{}"}


def head(**changes: Any) -> dict[str, Any]:
    listed = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        for name, content in FILES.items()
    }
    return {"schema": 1, "files": listed, **changes}


def lay(folder: Path, head: dict[str, Any]) -> Path:
    folder.mkdir()
    for name, content in {**FILES, "head.json": sealed.render(head)}.items():
        (folder / name).write_bytes(content)
    return folder


def read(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    return sealed.read_sealed(folder, "head.json", schema=1)


def test_what_was_sealed_is_read(tmp_path: Path) -> None:
    assert read(lay(tmp_path / "x", head(note="é"))) == (head(note="é"), FILES)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff\xfe",
        b"[1]",
        b"null",
        b"{}",
        b'{"schema": true}',
        b'{"schema": 0}',
        b'{"schema": 1, "x": NaN}',
        b'{"schema": 1, "schema": 1}',
        b'{"a":' * 100_000,
        b"9" * 5000,
    ],
)
def test_what_is_not_a_head_is_refused(raw: bytes) -> None:
    with pytest.raises(IntegrityError):
        sealed.parse(raw, schema=1, where="head.json")


def test_a_newer_schema_says_so_and_an_older_one_is_read() -> None:
    newer = sealed.render({"schema": 3})
    with pytest.raises(IntegrityError, match=r"newer rtc \(seen schema 3, expected ≤ 2\); upgrade"):
        sealed.parse(newer, schema=2, where="head.json")
    assert sealed.parse(sealed.render({"schema": 1}), schema=2, where="") == {"schema": 1}


@pytest.mark.parametrize("spoil", [json.dumps, lambda head: json.dumps(head, indent=2) + " "])
def test_another_form_of_the_same_head_is_refused(spoil: Any) -> None:
    whole = json.loads(sealed.render(head()))
    with pytest.raises(IntegrityError, match="changed after"):
        sealed.parse(spoil(whole).encode(), schema=1, where="")


ENTRY = {"sha256": "0" * 64, "bytes": 0}


@pytest.mark.parametrize(
    "files",
    [
        None,
        [],
        {"a.bin": None},
        {"a.bin": {"sha256": "0" * 64}},
        {"a.bin": {**ENTRY, "more": 1}},
        {"a.bin": {**ENTRY, "sha256": "0" * 63}},
        {"a.bin": {**ENTRY, "bytes": -1}},
        {"a.bin": {**ENTRY, "bytes": True}},
        {"a.bin": {**ENTRY, "bytes": 1 << 60}},
        {"../a.bin": ENTRY},
        {"/etc/passwd": ENTRY},
        {"": ENTRY},
        {"..": ENTRY},
        {".hidden": ENTRY},
        {"a\nb": ENTRY},
        {"é": ENTRY},
        {"a.bin": ENTRY, "A.bin": ENTRY},
    ],
)
def test_a_well_sealed_head_that_means_harm_is_refused(tmp_path: Path, files: Any) -> None:
    with pytest.raises(IntegrityError):
        read(lay(tmp_path / "x", head(files=files)))


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".x", "a b", "x" * 201, "é", "a\n"])
def test_no_such_file_name_is_ever_sealed(name: str) -> None:
    with pytest.raises(InternalError, match="safe everywhere"):
        sealed.listing({name: b""})


def test_names_that_differ_by_case_are_not_sealed() -> None:
    with pytest.raises(InternalError, match="only by case: a"):
        sealed.listing({"a": b"", "A": b""})


def _link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to("../elsewhere")


def _hard_link(path: Path) -> None:
    (path.parent.parent / "elsewhere").hardlink_to(path)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _socket(path: Path) -> None:
    path.unlink()
    os.chdir(path.parent)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)


def _sparse(path: Path) -> None:
    os.truncate(path, 1 << 40)


@pytest.mark.parametrize("name", ["a.bin", "head.json"])
@pytest.mark.parametrize("harm", [_link, _hard_link, _fifo, _folder, _socket, _sparse, Path.unlink])
def test_anything_but_the_plain_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, harm: Any
) -> None:
    monkeypatch.chdir(tmp_path)  # and back
    folder = lay(tmp_path / "x", head())
    harm(folder / name)
    with pytest.raises(IntegrityError, match=name):
        read(folder)


def test_missing_and_extra_files_are_named(tmp_path: Path) -> None:
    folder = lay(tmp_path / "x", head())
    (folder / "a.bin").rename(folder / "c.bin")
    with pytest.raises(IntegrityError, match=r"missing a\.bin; not listed 'c\.bin'"):
        read(folder)


def test_a_file_that_grows_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = lay(tmp_path / "x", head())
    fstat = os.fstat

    def then_grow(handle: int) -> os.stat_result:
        facts = fstat(handle)
        with (folder / "a.bin").open("ab") as stream:
            stream.write(b"!")
        return facts

    monkeypatch.setattr(os, "fstat", then_grow)
    with pytest.raises(IntegrityError, match=r"a\.bin.*seen 6 bytes"):
        read(folder)


def test_a_folder_that_is_replaced_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = lay(tmp_path / "x", head(note="old"))
    newer = lay(tmp_path / "y", head(note="new"))
    scandir = os.scandir

    def then_replace(handle: int) -> Any:
        monkeypatch.setattr(os, "scandir", scandir)
        found = list(scandir(handle))
        folder.rename(tmp_path / "aside")
        newer.rename(folder)
        (tmp_path / "aside" / "a.bin").unlink()
        return found

    monkeypatch.setattr(os, "scandir", then_replace)
    assert read(folder) == (head(note="new"), FILES)
