"""The child's side over a real socket pair, without a process of its own."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from rtc.compiler.process.frames import Channel
from rtc.compiler.process.sandbox_child import serve


@pytest.fixture
def parent(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))  # where sandbox_entries lies
    ours, theirs = socket.socketpair()
    child, channel = Channel(theirs), Channel(ours)
    serving = threading.Thread(target=serve, args=(child,))
    serving.start()
    yield channel
    channel.close()
    serving.join(10)
    child.close()
    assert not serving.is_alive(), "it serves on after its parent closed"


def head(entry: str, *, stays: bool = True, **args: object) -> dict[str, object]:
    return {"what": "the work", "entry": f"sandbox_entries:{entry}", "args": args, "stays": stays}


def test_an_object_is_kept_and_answers_until_the_parent_closes(parent) -> None:
    parent.send(head("Counter", start=3), {})
    assert parent.receive() == ({"value": {}}, {})
    for total in (5, 7):
        parent.send({"add": 2}, {"blob": b"ab"})
        reply, files = parent.receive()
        assert reply["value"]["total"] == total
        assert files == {"blob": b"abab"}


def test_a_refusal_crosses_and_the_object_answers_on(parent) -> None:
    parent.send(head("Counter", start=3), {})
    parent.receive()
    parent.send({"refuse": True}, {})
    refused, _ = parent.receive()
    assert "no such thing" in str(refused["error"])
    assert "ModelError" in refused["traceback"]
    parent.send({"add": 1}, {})
    assert parent.receive()[0]["value"]["total"] == 4


@pytest.mark.parametrize(
    ("entry", "said"),
    [("stumble", "ZeroDivisionError: a scale of"), ("refuse", "two ops are unknown")],
)
@pytest.mark.parametrize("stays", [False, True])
def test_an_entry_that_fails_is_an_error_with_its_traceback(entry, said, stays, parent) -> None:
    parent.send(head(entry, stays=stays), {})
    failed, files = parent.receive()
    assert said in str(failed["error"])
    assert f"in {entry}" in failed["traceback"]
    assert files == {}


def test_no_memory_is_the_machines_fault(parent) -> None:
    parent.send(head("too_large", stays=False), {})
    failed, _ = parent.receive()
    assert failed["error"]["id"] == "out-of-memory"
    assert "the work ran out of memory" in str(failed["error"])
