from __future__ import annotations

from rtc.targets.loader import profiles


def test_targets_lists_every_device_with_every_runtime(rtc) -> None:
    done = rtc("targets", "--json")
    assert done.code == 0
    rows = {row["name"]: row for row in done.document["targets"]}
    assert rows.keys() == profiles().keys()
    assert rows["cpu"]["buildable"]
    assert rows["cpu"]["runnable"]
    for row in rows.values():
        for runtime in row["runtimes"]:
            assert runtime["builds"]["ok"] or runtime["builds"]["missing"]
    table = rtc("targets").out
    assert all(name in table for name in rows)
