from __future__ import annotations

from rtc.compiler.storage.store import Store


def test_info_counts_and_clear_removes(rtc, tmp_path) -> None:
    store = Store(tmp_path / "cache")
    for text in (b"one", b"two"):
        store.put(Store.key(text.decode()), {"file": text})
    info = rtc("cache", "info", "--json").document
    assert info["path"] == str(tmp_path / "cache")
    assert info["entries"] == 2
    assert rtc("cache", "clear", "--older-than", "1", "--json").document["entries"] == 0
    assert rtc("cache", "clear").out.startswith("removed 2 entries")
    assert rtc("cache", "info", "--json").document["entries"] == 0


def test_another_folder_is_named_on_the_command_line(rtc, tmp_path) -> None:
    done = rtc("cache", "info", "--cache", "other")
    assert done.out.startswith("other: 0 entries")
