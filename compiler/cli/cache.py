"""`rtc cache info | clear`: the store of stage results."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rtc.compiler.cli.answer import Answer, command, group, printable

if TYPE_CHECKING:
    from rtc.compiler.storage.store import Store

app = group("cache", "The store of stage results: what it holds, and emptying it.")

Folder = Annotated[
    Path | None, typer.Option("--cache", help="The store's folder; RTC_CACHE or the user's own.")
]


def open_store(folder: Path | None, warn: Callable[[str], None] | None = None) -> Store:
    """The store at a folder, or the user's; its warnings go to `warn`, or to stderr."""
    from rtc.compiler.storage.store import Store

    warn = warn or _warn
    return Store.default(warn) if folder is None else Store(folder, warn)


def _warn(text: str) -> None:
    sys.stderr.write(f"warning: {printable(text)}\n")


@command(app, "info")
def info(cache: Folder = None) -> Answer:
    """Say where the store is and how much it holds.

    \b
    Example:
      rtc cache info --json
    """
    from rtc.compiler.report.figures import size

    contents = open_store(cache).info()
    text = f"{contents.path}: {contents.entries} entries, {size(contents.bytes)}"
    if contents.quarantined:
        text += f", {contents.quarantined} of them damaged and set aside"
    return Answer({**asdict(contents), "path": str(contents.path)}, text)


@command(app, "clear")
def clear(
    older_than: Annotated[
        float | None,
        typer.Option("--older-than", min=0, metavar="DAYS", help="Keep what is newer than that."),
    ] = None,
    cache: Folder = None,
) -> Answer:
    """Remove stage results; they are made again when they are needed.

    \b
    Example:
      rtc cache clear --older-than 30
    """
    from rtc.compiler.report.figures import size

    removed = open_store(cache).clear(older_than_days=older_than)
    return Answer(asdict(removed), f"removed {removed.entries} entries, {size(removed.bytes)}")
