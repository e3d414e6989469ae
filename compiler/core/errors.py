"""One exception tree. Every class carries the exit code and the stable id that `--json` prints.

    RtcError                       what, where, seen against expected, how to fix it
    ├── RecipeError          2     a recipe, a plan or a command line that cannot mean anything
    ├── ModelError           3     a model that cannot be read, or is not what it says
    ├── DataError            4     samples, labels, images, splits
    ├── MachineError         5     this machine: a missing extra, no space, no permission, no device
    ├── BuilderError         6     a runtime's builder failed, crashed or overran its deadline
    ├── IntegrityError       7     bytes that are not the bytes that were promised
    ├── GateError            8     the engine exists, and a gate or a pass's check refuses it
    └── InternalError       70     a bug of ours

Code never matches on message text: callers tell errors apart by class and `id`.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any, ClassVar

_LONGEST = 200  # characters of a reason
_SIGNATURE = r"(?:[^().']*::[^()]*\([^()]*\)(?:::<lambda\([^()]*\)>)?(?: const)?|\w+) "
_WORDY = (
    (re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : "), ""),
    (re.compile(r"Non-zero status code .* running (\w+) node\. Name:''"), r"\1:"),
    (re.compile(r"Non-zero status code .* running (\w+) node\. Name:'(.*?)'"), r"\2 (\1):"),
    (re.compile(r" Status Message:"), ""),
    (re.compile(rf"\S+\.(?:h|cc|cpp):\d+ {_SIGNATURE}(?:.*? was false\. )?"), ""),
    (re.compile(r"The input .* Input shape:(\S+), requested shape:"), r"input \1, requested "),
)
"""What runtimes say beside the reason, and what to say instead."""


class RtcError(Exception):
    """An error that a user can act on.

    Args:
        what: one line that says what went wrong.
        where: the file (with line and column where there is one), layer, pass or option.
        seen: what was found.
        expected: what would have been right.
        fix: what to do about it: a command, or the nearest right spelling.
        id: stable identifier for machines, kebab-case; the class's own when not given.
    """

    exit_code: ClassVar[int] = 70
    default_id: ClassVar[str] = "internal"

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        seen: str = "",
        expected: str = "",
        fix: str = "",
        id: str = "",
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.seen = seen
        self.expected = expected
        self.fix = fix
        self.id = id or self.default_id

    def __str__(self) -> str:
        """One line: `where: what (seen …, expected …); fix`."""
        line = f"{self.where}: {self.what}" if self.where else self.what
        sides = [f"seen {self.seen}"] if self.seen else []
        sides += [f"expected {self.expected}"] if self.expected else []
        if sides:
            line += f" ({', '.join(sides)})"
        return f"{line}; {self.fix}" if self.fix else line

    def to_dict(self) -> dict[str, Any]:
        """The shape that `--json` prints, and that crosses from a child process."""
        return {
            "error": type(self).__name__,
            "id": self.id,
            "exit_code": self.exit_code,
            "what": self.what,
            "where": self.where,
            "seen": self.seen,
            "expected": self.expected,
            "fix": self.fix,
        }


class RecipeError(RtcError):
    """A recipe, a plan or a command line that cannot mean anything."""

    exit_code = 2
    default_id = "recipe"


class ModelError(RtcError):
    """A model that cannot be read, or is not what it says."""

    exit_code = 3
    default_id = "model"


class DataError(RtcError):
    """Samples, labels, images or splits that cannot be used."""

    exit_code = 4
    default_id = "data"


class MachineError(RtcError):
    """What this machine lacks: an extra, space, a permission, a device."""

    exit_code = 5
    default_id = "machine"


class BuilderError(RtcError):
    """A runtime's builder that failed, crashed or overran its deadline."""

    exit_code = 6
    default_id = "builder"


class IntegrityError(RtcError):
    """Bytes that are not the bytes that were promised."""

    exit_code = 7
    default_id = "integrity"


class GateError(RtcError):
    """An engine or model that a gate or a pass's check refuses."""

    exit_code = 8
    default_id = "gate"


class InternalError(RtcError):
    """A bug of rtc."""

    exit_code = 70
    default_id = "internal"


KINDS: dict[str, type[RtcError]] = {
    kind.__name__: kind
    for kind in (
        RecipeError,
        ModelError,
        DataError,
        MachineError,
        BuilderError,
        IntegrityError,
        GateError,
        InternalError,
    )
}


def from_dict(fields: dict[str, Any]) -> RtcError:
    """The error that `to_dict` described; what crosses from a child process is rebuilt here."""
    kind = KINDS.get(str(fields.get("error")), InternalError)
    names = ("where", "seen", "expected", "fix", "id")
    return kind(str(fields.get("what", "")), **{n: str(fields.get(n, "")) for n in names})


def first_line(error: BaseException) -> str:
    """What an error says in its first line, for `seen`; its class where it says nothing.

    Without a runtime's codes and the places in its source, which are the first words of many; what
    is longer than 200 characters ends between two words.
    """
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else type(error).__name__
    for wordy, plain in _WORDY:
        line = wordy.sub(plain, line, count=1)
    return textwrap.shorten(line, _LONGEST, placeholder=" …") if len(line) > _LONGEST else line
