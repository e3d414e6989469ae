"""What a command gives back, and how it is shown: text for a person, or one JSON document."""

from __future__ import annotations

import functools
import inspect
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtc.compiler.core.errors import RtcError

if TYPE_CHECKING:
    from rich.console import RenderableType

_PIPE_WIDTH = 160
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, errors too.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@dataclass(frozen=True)
class Answer:
    """A command's result.

    Attributes:
        document: what `--json` prints; JSON types.
        text: what a person sees: text, or anything that rich can draw.
        failure: what the result means where it is no success (a gate failed); it ends the
            command, after the result was shown.
    """

    document: Mapping[str, Any]
    text: RenderableType = ""
    failure: RtcError | None = None

    def show(self, as_json: bool) -> int:
        """Print to stdout; the exit code."""
        if as_json:
            print_json(self.document)
        elif isinstance(self.text, str):
            say(self.text)
        else:
            draw(self.text)
        return 0 if self.failure is None else complain(self.failure)


def command(
    app: typer.Typer, name: str
) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """Register a function as a command; `--json` and `--debug` join its own options.

    The function's docstring is the help, its parameters are the options. The exit code is given
    back to `main`, which also reads `--debug` and turns errors into text or JSON.
    """

    def register(function: Callable[..., Answer]) -> Callable[..., Answer]:
        @functools.wraps(function)
        def run(*, as_json: bool, _debug: bool, **given: Any) -> int:
            return function(**given).show(as_json)

        own = inspect.signature(function, eval_str=True)
        shared = [_flag("as_json", Json), _flag("_debug", Debug)]
        joined = own.replace(parameters=[*own.parameters.values(), *shared])
        vars(run)["__signature__"] = joined  # what typer sees of the command
        run.__annotations__ = {p.name: p.annotation for p in joined.parameters.values()}
        summary = inspect.getdoc(function) or ""
        app.command(name, short_help=summary.split("\n\n")[0])(run)
        return function

    return register


def _flag(name: str, annotation: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=False, annotation=annotation)


def print_json(document: Mapping[str, Any]) -> None:
    """One document on stdout; keys are only ever added to one. A NaN in it is a bug, and raises."""
    say(json.dumps(document, indent=2, allow_nan=False))


def complain(error: RtcError) -> int:
    """One line on stderr; the error's exit code."""
    sys.stderr.write(f"error: {printable(str(error))}\n")
    return error.exit_code


def say(text: str) -> None:
    """A line (or lines) on stdout."""
    with printing():
        sys.stdout.write(text + "\n")


def draw(text: RenderableType) -> None:
    """A table, or whatever rich can draw, on stdout."""
    from rich.console import Console

    # A pipe has no width of its own, and a path that is broken over two lines is no path.
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    with printing():
        width = None if known else _PIPE_WIDTH
        # What is drawn holds names from models and plans: never markup, nor an emoji's name.
        Console(highlight=False, markup=False, emoji=False, width=width).print(text)


@contextmanager
def printing() -> Iterator[None]:
    """While a result is printed, a reader that leaves (`| head -1`) ends us as it does any tool.

    Only then: at other times a broken pipe may be one to a child, and is an error to tell of.
    """
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        yield
        sys.stdout.flush()
    finally:
        signal.signal(signal.SIGPIPE, before)


def printable(text: str) -> str:
    """Text that cannot steer a terminal or break a line: escapes and newlines are spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def group(name: str, help: str) -> typer.Typer:
    """A group of commands that prints its help when no command is given.

    Without rich's colours: importing rich would cost more than all the rest of `rtc --help`.
    """
    app = typer.Typer(
        name=name,
        help=help,
        rich_markup_mode=None,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(invoke_without_command=True)
    def _help(ctx: typer.Context) -> None:
        if ctx.invoked_subcommand is None:
            say(ctx.get_help())

    return app
