import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from rtc.compiler.core.errors import InternalError, MachineError
from rtc.compiler.storage.store import INDEX, Cleared, Store

HELPERS = Path(__file__).parents[2] / "helpers"
FILES = {"unit.json": b'{"level":"onnx"}', "model.onnx": bytes(range(256))}
KEY = Store.key({"stage": "fold"})


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, warnings: list[str]) -> Store:
    return Store(tmp_path / "cache", warnings.append)


def entry(store: Store) -> Path:
    return store.root / "entries" / KEY


def test_what_is_put_is_got_and_what_was_not_is_none(store: Store) -> None:
    assert store.get(KEY) is None
    store.put(KEY, FILES)
    assert store.get(KEY) == FILES
    assert store.get(Store.key("another")) is None


def test_an_empty_result_is_a_result(store: Store) -> None:
    store.put(KEY, {})
    assert store.get(KEY) == {}


def test_the_first_result_stays_unless_replaced(store: Store) -> None:
    store.put(KEY, FILES)
    store.put(KEY, {"a": b"second"})
    assert store.get(KEY) == FILES
    store.put(KEY, {"a": b"third"}, replace=True)
    assert store.get(KEY) == {"a": b"third"}
    assert [path.name for path in (store.root / "entries").iterdir()] == [KEY]


def test_a_key_depends_on_content_not_on_order() -> None:
    assert Store.key({"a": 1, "b": [1.5, None]}) == Store.key({"b": [1.5, None], "a": 1})
    assert Store.key({"a": 1}) != Store.key({"a": "1"})
    assert re.fullmatch("[0-9a-f]{64}", KEY)
    with pytest.raises(ValueError, match="JSON"):
        Store.key({"loss": float("nan")})


@pytest.mark.parametrize("locale", ["C", "de_DE.UTF-8"])
def test_a_key_is_the_same_in_any_surroundings(locale: str) -> None:
    code = "from rtc.compiler.storage.store import Store; print(Store.key({'\\xe9': 1, 'a': 2.5}))"
    surroundings = {"TZ": "Asia/Tokyo", "LC_ALL": locale, "PYTHONHASHSEED": "77"}
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **surroundings},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == Store.key({"a": 2.5, "é": 1})


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/b", "..", "", ".x", INDEX])
def test_file_names_cannot_leave_the_entry(store: Store, name: str) -> None:
    with pytest.raises(InternalError):
        store.put(KEY, {name: b""})
    assert not store.root.exists()


@pytest.mark.parametrize("key", ["", "../" * 22, "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_only_keys_are_keys(store: Store, key: str) -> None:
    with pytest.raises(InternalError):
        store.get(key)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def _extend(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _add_beside(path: Path) -> None:
    (path.parent / "more").write_bytes(b"")


def _rename(path: Path) -> None:
    path.rename(path.with_name("renamed"))


@pytest.mark.parametrize("name", [*FILES, INDEX])
@pytest.mark.parametrize("harm", [_flip, _extend, _empty, Path.unlink, _add_beside, _rename])
def test_a_damaged_entry_is_moved_aside_told_of_and_made_again(
    store: Store, warnings: list[str], name: str, harm: Callable[[Path], None]
) -> None:
    store.put(KEY, FILES)
    harm(entry(store) / name)
    assert store.get(KEY) is None
    assert len(warnings) == 1
    assert "damaged cache entry" in warnings[0]
    assert store.info().quarantined == 1
    store.put(KEY, FILES)
    assert store.get(KEY) == FILES
    assert len(warnings) == 1


def test_any_byte_of_an_index_counts(store: Store) -> None:
    store.put(KEY, FILES)
    index = entry(store) / INDEX
    whole = index.read_bytes()
    for at in range(0, len(whole), 3):
        index.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert store.get(KEY) is None, at
        store.put(KEY, FILES)


def test_an_entry_under_another_key_is_not_taken(store: Store, warnings: list[str]) -> None:
    store.put(KEY, FILES)
    other = Store.key("other")
    entry(store).rename(entry(store).with_name(other))
    assert store.get(other) is None
    assert "is another entry" in warnings[0]


def test_a_file_in_an_entrys_place_is_moved_aside(store: Store, warnings: list[str]) -> None:
    entry(store).parent.mkdir(parents=True)
    entry(store).write_bytes(b"?")
    assert store.get(KEY) is None
    assert "is not a folder" in warnings[0]
    store.put(KEY, FILES)
    assert store.get(KEY) == FILES


def test_info_and_clear(store: Store) -> None:
    assert store.info() == type(store.info())(store.root, 0, 0, 0)
    assert store.clear() == Cleared(0, 0)
    for turn in range(3):
        store.put(Store.key(turn), FILES)
    old = store.root / "entries" / Store.key(0)
    os.utime(old, (0, 0))
    size = sum(path.stat().st_size for path in old.iterdir())
    assert (store.info().entries, store.info().bytes) == (3, 3 * size)
    assert store.clear(older_than_days=30) == Cleared(1, size)
    _flip(store.root / "entries" / Store.key(1) / "model.onnx")
    assert store.get(Store.key(1)) is None
    assert store.clear() == Cleared(2, 2 * size)
    assert store.info().bytes == 0
    assert store.get(Store.key(2)) is None


def test_the_default_is_where_rtc_cache_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTC_CACHE", str(tmp_path / "mine"))
    assert Store.default().root == tmp_path / "mine"
    monkeypatch.delenv("RTC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Store.default().root.name == "rtc"
    assert tmp_path in Store.default().root.parents


def test_a_root_that_is_a_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = Store(tmp_path / "file")
    for act in (
        lambda: store.get(KEY),
        lambda: store.put(KEY, FILES),
        lambda: store.lock(KEY).__enter__(),
        store.info,
        store.clear,
    ):
        with pytest.raises(MachineError, match="is not a folder; set RTC_CACHE") as caught:
            act()
        assert caught.value.id == "not-a-folder"


def test_the_second_waits_says_so_and_takes_the_first_ones_result(
    store: Store, warnings: list[str]
) -> None:
    taken: list[object] = []

    def second() -> None:
        with store.lock(KEY):
            taken.append(store.get(KEY))

    waiter = threading.Thread(target=second)
    with store.lock(KEY):
        waiter.start()
        while not warnings:  # until it waits
            waiter.join(0.01)
        store.put(KEY, FILES)
    waiter.join()
    assert taken == [FILES]
    assert warnings == ["waiting for another compile that makes the same result"]


def test_a_lock_ends_with_its_process(store: Store, warnings: list[str]) -> None:
    code = (
        "import os, sys; from pathlib import Path; from rtc.compiler.storage.store import Store\n"
        "with Store(Path(sys.argv[1])).lock(sys.argv[2]): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(store.root), KEY], check=False)
    assert (store.root / "locks" / f"{KEY}.lock").exists()
    with store.lock(KEY):
        assert warnings == []


def share(tmp_path: Path, processes: int, rounds: int) -> None:
    """Processes in different surroundings on one store: equal results, each made once."""
    command = [sys.executable, "-W", "error", str(HELPERS / "sharer.py"), str(tmp_path)]
    running = [
        subprocess.Popen(
            [*command, str(rounds)],
            env={**os.environ, "PYTHONHASHSEED": str(n), "TZ": f"UTC{n}", "LC_ALL": "C"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(processes)
    ]
    told = [process.communicate() for process in running]
    assert [error for _, error in told if error] == []
    answers = [json.loads(answer) for answer, _ in told]
    assert len({answer["digest"] for answer in answers}) == 1
    waits = "waiting for another compile that makes the same result"
    assert {text for answer in answers for text in answer["warnings"]} <= {waits}
    made = Counter((tmp_path / "made").read_text().split())
    assert made == Counter(map(str, range(rounds)))
    assert not list((tmp_path / "store" / "entries").glob(".tmp-*"))


def test_four_processes_share_one_store(tmp_path: Path) -> None:
    share(tmp_path, processes=4, rounds=5)


@pytest.mark.slow
def test_eight_processes_share_one_store_for_fifty_rounds(tmp_path: Path) -> None:
    share(tmp_path, processes=8, rounds=50)


def test_clear_takes_the_locks_of_what_is_gone_but_none_that_is_held(store: Store) -> None:
    held = Store.key("held")
    for key in (KEY, Store.key("kept")):
        with store.lock(key):
            store.put(key, FILES)
    stale = time.time() - 40 * 86400
    os.utime(entry(store), (stale, stale))
    with store.lock(held):
        store.clear(older_than_days=30)
        left = {path.stem for path in (store.root / "locks").iterdir()}
    assert left == {Store.key("kept"), held}
