from __future__ import annotations

import os
import socket
import threading

import pytest

from rtc.compiler.process.frames import Channel


@pytest.fixture
def ends():
    pair = [Channel(end) for end in socket.socketpair()]
    yield pair
    for end in pair:
        end.close()


def test_heads_and_blobs_arrive_as_they_were_sent(ends) -> None:
    one, other = ends
    files = {"empty": b"", "ü": bytes(range(256))}
    one.send({"op": "build", "size": [1, 2]}, files)
    one.send({}, {})
    assert other.receive() == ({"op": "build", "size": [1, 2]}, files)
    assert other.receive() == ({}, {})


def test_more_than_the_kernel_holds_goes_through(ends) -> None:
    one, other = ends
    content = os.urandom(8 << 20)
    sender = threading.Thread(target=one.send, args=({"large": True}, {"blob": content}))
    sender.start()
    head, files = other.receive()
    sender.join()
    assert head == {"large": True}
    assert files["blob"] == content


class ImpatientError(Exception):
    pass


def test_patience_is_asked_while_nothing_moves_and_may_end(ends) -> None:
    asked: list[int] = []

    def patience() -> float:
        asked.append(1)
        if len(asked) > 3:
            raise ImpatientError
        return 0.001

    with pytest.raises(ImpatientError):
        ends[1].receive(patience)
    assert len(asked) == 4
    full: list[int] = []

    def give_up() -> float:
        full.append(1)
        raise ImpatientError

    with pytest.raises(ImpatientError):
        ends[0].send({}, {"blob": bytes(64 << 20)}, give_up)
    assert full


def test_the_end_of_the_other_side_is_told(ends) -> None:
    one, other = ends
    one.close()
    with pytest.raises(EOFError):
        other.receive()
    with pytest.raises(ConnectionError):
        other.send({}, {"blob": bytes(8 << 20)})
