"""Words that a person and a file spell alike."""

from __future__ import annotations

from enum import Enum


class Word(str, Enum):
    """An enum of words: each is its text, in messages and in JSON (`StrEnum`, from Python 3.11)."""

    def __str__(self) -> str:
        return str(self.value)
