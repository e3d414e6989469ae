"""A bundle that is not exactly what was published is refused."""

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sealed_bundles import FILES, MADE, VERSION, content, damage, home

from rtc.compiler.bundle.bundles import MANIFEST, publish, verify
from rtc.compiler.core.errors import IntegrityError, MachineError, RecipeError
from rtc.compiler.storage import sealed


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(tmp_path_factory.mktemp("pristine"), MADE, FILES)


def refuses(folder: Path) -> bool:
    try:
        verify(folder)
    except IntegrityError:
        return True
    return False


def test_every_byte_of_every_file_counts(pristine: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(pristine, folder)
    passed = []
    for name, whole in content(pristine).items():
        for at in range(len(whole)):
            head, byte, tail = whole[:at], whole[at], whole[at + 1 :]
            for mutant in (head + bytes([byte ^ 1]) + tail, head + tail, head + b" " + whole[at:]):
                (folder / name).write_bytes(mutant)
                if not refuses(folder):
                    passed.append((name, at, mutant))
        (folder / name).write_bytes(whole)
    assert passed == []
    assert verify(folder).files == FILES


def _swap(folder: Path, name: str, other: str, data: bytes) -> None:
    (folder / name).rename(folder / "kept")
    (folder / other).rename(folder / name)
    (folder / "kept").rename(folder / other)


def _overwrite(folder: Path, name: str, other: str, data: bytes) -> None:
    (folder / name).write_bytes(data)


def _insert(folder: Path, name: str, other: str, data: bytes) -> None:
    whole = (folder / name).read_bytes()
    at = len(data) * 7 % (len(whole) + 1)
    (folder / name).write_bytes(whole[:at] + data + whole[at:])


def _truncate(folder: Path, name: str, other: str, data: bytes) -> None:
    os.truncate(folder / name, (folder / name).stat().st_size // (len(data) + 1))


def _remove(folder: Path, name: str, other: str, data: bytes) -> None:
    (folder / name).unlink()


def _copy_over(folder: Path, name: str, other: str, data: bytes) -> None:
    shutil.copy(folder / other, folder / name)


def _add(folder: Path, name: str, other: str, data: bytes) -> None:
    (folder / f"{name}.{len(data)}").write_bytes(data)


def _add_folder(folder: Path, name: str, other: str, data: bytes) -> None:
    (folder / f".{name}").mkdir()


def _other_case(folder: Path, name: str, other: str, data: bytes) -> None:
    (folder / name.upper()).write_bytes(data)


def _latest(folder: Path, name: str, other: str, data: bytes) -> None:
    (folder / "latest").symlink_to(".")


MUTATIONS = [_swap, _overwrite, _insert, _truncate, _remove, _copy_over, _add, _add_folder]
MUTATIONS += [_other_case, _latest]


@given(
    mutate=st.sampled_from(MUTATIONS),
    names=st.permutations([*FILES, MANIFEST]),
    data=st.binary(max_size=40),
)
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_a_mutant_whose_content_differs_is_refused(
    pristine: Path,
    tmp_path_factory: pytest.TempPathFactory,
    mutate: Callable[[Path, str, str, bytes], None],
    names: list[str],
    data: bytes,
) -> None:
    folder = tmp_path_factory.mktemp("mutant") / "bundle"
    shutil.copytree(pristine, folder)
    mutate(folder, names[0], names[1], data)
    entries = {path.name for path in folder.iterdir()}
    changed = entries != {*FILES, MANIFEST} or content(folder) != content(pristine)
    assert refuses(folder) == changed


def resealed(pristine: Path, folder: Path, **changes: Any) -> Path:
    """The bundle of somebody who knows how to make the digests match."""
    shutil.copytree(pristine, folder)
    head = sealed.parse((pristine / MANIFEST).read_bytes(), schema=1, where="")
    (folder / MANIFEST).write_bytes(sealed.render({**head, **changes}))
    return folder


def test_a_newer_bundle_is_refused_and_says_so(pristine: Path, tmp_path: Path) -> None:
    newer = resealed(pristine, tmp_path / "newer", schema=2, future="field")
    with pytest.raises(
        IntegrityError, match=r"newer rtc .*schema 2, expected ≤ 1.*upgrade"
    ) as caught:
        verify(newer)
    assert (caught.value.id, caught.value.exit_code) == ("newer-schema", 7)


@pytest.mark.parametrize(
    "changes",
    [
        {"more": 1},
        {"passed": "yes"},
        {"passed": 1},
        {"name": "../../etc"},
        {"target": ""},
        {"version": 3},
        {"engine": {}},
        {"engine": {**dataclasses.asdict(MADE.engine), "file": "../x"}},
        {"engine": {**dataclasses.asdict(MADE.engine), "extra": 1}},
        {"signature": {"inputs": [], "outputs": [{"name": "y"}]}},
        {"gates": "all"},
        {"certificates": [1]},
    ],
)
def test_a_well_sealed_manifest_that_makes_no_sense_is_refused(
    pristine: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    assert refuses(resealed(pristine, tmp_path / "forged", **changes))


def test_the_bytes_returned_are_the_bytes_checked(pristine: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(pristine, folder)
    found = verify(folder)
    damage(folder)
    assert found.files == FILES


@pytest.mark.parametrize("to", ["..", "../cpu", "/", "latest", f"./../cpu/{VERSION}"])
def test_a_latest_that_leads_out_is_refused(tmp_path: Path, to: str) -> None:
    publish(tmp_path, MADE, FILES)
    (home(tmp_path) / "latest").unlink()
    (home(tmp_path) / "latest").symlink_to(to)
    with pytest.raises(IntegrityError, match="leads out"):
        verify(home(tmp_path))


def test_where_there_is_no_bundle_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "latest").symlink_to("gone")
    for name in ("none", "file", "loop", "latest", "."):
        with pytest.raises(RecipeError, match="no bundle here; `rtc compile`") as caught:
            verify(tmp_path / name)
        assert caught.value.exit_code == 2


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"manifest\.json: is missing"):
        verify(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_bundle_that_may_not_be_read_is_no_tampered_one(tmp_path: Path) -> None:
    made = publish(tmp_path, MADE, FILES)
    (made / "engine.onnx").chmod(0)
    with pytest.raises(MachineError, match="permission denied"):
        verify(made)
