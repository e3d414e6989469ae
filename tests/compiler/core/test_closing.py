from __future__ import annotations

import pytest

from rtc.compiler.core.closing import Closing


class Door(Closing):
    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def test_a_with_statement_closes_it_whatever_happens() -> None:
    with Door() as door:
        assert door.closed == 0
    assert door.closed == 1
    broken = Door()
    with pytest.raises(KeyError), broken:
        raise KeyError
    assert broken.closed == 1


def test_what_cannot_be_closed_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        type("Open", (Closing,), {})()
