"""What a compile shows while it runs, on stderr: the running stage, and a line for each that ended.

On a terminal the running stage has a bar, its elapsed time and what it has found so far; in a pipe
there is one plain line per finished stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from rtc.compiler.core.progress import Listener
from rtc.compiler.execution.changes import in_words
from rtc.compiler.report.figures import clean, duration

_NAME, _TIME = 30, 12  # widths of a finished line's columns
_INDENT = "    "  # before what a terminal's line has no room for


class TerminalListener(Listener):
    """A `Listener` that draws; a context manager, so that the terminal is itself again after it."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._live = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[found]}", markup=False, style="dim"),
            console=self.console,
            transient=True,
            disable=not self.console.is_interactive,
        )
        self._running: dict[str, tuple[TaskID, str]] = {}
        self._warned: set[str] = set()
        self._again: dict[str, list[str]] = {}  # why a stage is done again

    def __enter__(self) -> TerminalListener:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def started(self, stage: str, target: str) -> None:
        label = clean(f"{target}: {stage}" if target else stage)
        self._running[stage] = (self._live.add_task(label, total=None, found=""), label)

    def redone(self, stage: str, why: Sequence[str]) -> None:
        reasons = self._again.setdefault(stage, [])
        reasons += [reason for reason in why if reason not in reasons]
        if stage in self._running:
            self._live.update(self._running[stage][0], found=clean(f"again: {in_words(reasons)}"))

    def progressed(self, stage: str, done: int, total: int, found: str) -> None:
        if stage in self._running:
            task, _ = self._running[stage]
            self._live.update(task, completed=done, total=total, found=clean(found))

    def finished(self, stage: str, seconds: float, found: str, cached: bool) -> None:
        label = self._ended(stage)
        took = "cached" if cached else duration(seconds)
        again = self._again.pop(stage, [])
        if again:
            found = f"{found} (again: {in_words(again)})"
        line = Text.assemble(
            ("✓ ", "green"), f"{label:<{_NAME}} ", (f"{took:>{_TIME}}", "cyan"), "  ", clean(found)
        )
        self._print(line)

    def failed(self, stage: str, why: str) -> None:
        text = f"{self._ended(stage):<{_NAME}} {clean(why)}".rstrip()
        line = Text.assemble(("✗ ", "red"), text)
        self._print(line)

    def warned(self, text: str) -> None:
        if text in self._warned:
            return  # two compiles on one cache wait for each other at every stage
        self._warned.add(text)
        self._print(Text(f"! {clean(text)}", "yellow"))

    def _print(self, line: Text) -> None:
        """One line however long in a pipe, whose reader greps it; between words on a terminal."""
        if self.console.is_terminal:
            wrapped = line.wrap(self.console, self.console.width - len(_INDENT))
            line = Text(f"\n{_INDENT}").join(wrapped)
        self.console.print(line, soft_wrap=True)

    def _ended(self, stage: str) -> str:
        """A stage's label; its bar goes away."""
        if stage not in self._running:
            return clean(stage)
        task, label = self._running.pop(stage)
        self._live.remove_task(task)
        return label
