"""Writers that are killed, or refused by the disk, at each of their system calls."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HELPERS = Path(__file__).parents[2] / "helpers"
OURS = ["first", "next", "again", "damaged", "store"]
slow = pytest.mark.slow


def meet(scenario: str, fault: str, root: Path, *options: str) -> dict[str, Any]:
    """In a process of its own, without threads, since the harness forks."""
    command = [sys.executable, "-W", "error", str(HELPERS / "writers.py")]
    told = subprocess.run(
        [*command, scenario, fault, str(root), *options], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(told.stdout)
    return found


@pytest.mark.parametrize("scenario", OURS)
def test_killed_at_every_call_nothing_partial_is_seen_and_the_rerun_completes(
    tmp_path: Path, scenario: str
) -> None:
    found = meet(scenario, "kill", tmp_path)
    assert found["problems"] == []
    assert found["outcomes"] == {"killed": found["runs"]}
    assert found["runs"] > 15


def test_the_harness_finds_a_naive_writer_guilty(tmp_path: Path) -> None:
    found = meet("naive", "kill", tmp_path)
    assert any("manifest.json: is missing" in problem for problem in found["problems"])
    assert any("latest is gone" in problem for problem in found["problems"])


@pytest.mark.parametrize("scenario", ["next", *(pytest.param(s, marks=slow) for s in OURS)])
@pytest.mark.parametrize("fault", ["ENOSPC", "EIO", "EMFILE"])
@pytest.mark.parametrize("options", [[], pytest.param(["--lasting"], marks=slow)], ids=str)
def test_refused_at_any_call_it_says_so_and_what_stood_still_stands(
    tmp_path: Path, scenario: str, fault: str, options: list[str]
) -> None:
    found = meet(scenario, fault, tmp_path, *options)
    assert found["problems"] == []
    assert set(found["outcomes"]) <= {"refused", "ok"}  # ok: a courtesy, such as clearing, failed
    assert found["outcomes"]["refused"] >= 8


def test_the_harness_sees_an_error_that_escapes(tmp_path: Path) -> None:
    found = meet("naive", "ENOSPC", tmp_path)
    assert found["outcomes"] == {"escaped": found["runs"]}


@slow
@pytest.mark.parametrize("scenario", OURS)
def test_killed_two_hundred_times_at_random(tmp_path: Path, scenario: str) -> None:
    found = meet(scenario, "kill-anytime", tmp_path, "--kills", "200")
    assert found["problems"] == []
    assert found["outcomes"]["killed"] == 200


WRITES = """
import sys
from pathlib import Path
from rtc.compiler.core.errors import MachineError
from rtc.compiler.storage.store import Store
store = Store(Path(sys.argv[1]) / "cache")
try:
    for turn in range(100):
        store.put(store.key(turn), {"a": bytes(50_000)})
except MachineError as error:
    whole = sum(store.get(store.key(turn)) is not None for turn in range(100))
    print(error.id, error.seen, "|", whole, store.info().entries, store.info().quarantined)
"""


def mounted(folder: Path, options: str, script: str) -> str:
    """What a script prints with a file system of its own at `folder`, which ends with it."""
    shell = f'mount -t tmpfs -o {options} tmpfs "$0" && exec "$1" -c "$2" "$0"'
    if shutil.which("unshare") is None:
        pytest.skip("needs `unshare`")
    apart = ["unshare", "--map-root-user", "--mount"]
    told = subprocess.run(
        [*apart, "sh", "-c", shell, str(folder), sys.executable, script],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in told.stderr or "mount" in told.stderr:
        pytest.skip(f"cannot mount here: {told.stderr.strip()}")
    assert told.stderr == ""
    return told.stdout


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    told, counts = mounted(tmp_path, "size=1m", WRITES).split("|")
    assert told.startswith("disk-full 0.")
    whole, entries, quarantined = map(int, counts.split())
    assert whole == entries > 5
    assert quarantined == 0


def test_a_disk_that_is_really_read_only(tmp_path: Path) -> None:
    told = mounted(tmp_path, "ro", WRITES)
    assert told.startswith("read-only ")
