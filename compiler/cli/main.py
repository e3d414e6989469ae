"""`rtc`: the commands, and the one place where an error becomes a line and an exit code.

Importing this module imports no heavy library: `rtc --help` answers in under 150 ms, and each
command imports what it needs when it runs.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from rtc.compiler.cli import bundles, cache, calibration, compiling, machine, precision, recipes
from rtc.compiler.cli.answer import complain, group, print_json, say
from rtc.compiler.core.errors import InternalError, MachineError, RecipeError, RtcError

# click's class, or the copy of it that newer versions of typer carry
_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
_EXTRAS = {
    **dict.fromkeys(("torch", "modelopt", "accelerate", "onnxscript"), "torch"),
    "mlxtend": "demo",
    "PIL": "images",
}


def _print_version(asked: bool) -> None:
    if asked:
        from rtc.compiler.cli.doctor import own_version

        say(f"rtc {own_version()}")
        raise typer.Exit


app = group("rtc", "Compile neural networks that must run in real time: recipe in, engine out.")


@app.callback(invoke_without_command=True)
def _rtc(
    ctx: typer.Context,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    if ctx.invoked_subcommand is None:
        say(ctx.get_help())


for _commands in (
    compiling.app,
    bundles.app,
    machine.app,
    recipes.app,
    calibration.app,
    precision.app,
    cache.app,
):
    app.add_typer(_commands)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code is one of `rtc.compiler.core.errors`, or a signal's.

    Never raises, and prints no traceback without `--debug`.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a layer's name in a Latin-1 terminal
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        return _run(given)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _run(given: Sequence[str]) -> int:
    try:
        code = app(list(given), prog_name="rtc", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        return _stopped(130)
    except _Terminated:
        return _stopped(143)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, a user gets one line
        if "--debug" in given:
            traceback.print_exc()
        known = _as_rtc_error(error)
        if "--json" in given:
            print_json(known.to_dict())
        return complain(known)
    return _stopped(130) if code == 130 else int(code or 0)


class _Terminated(BaseException):
    """SIGTERM; unwinds like an interrupt, so that children end and locks are given back."""


def _terminate(_signum: int, _frame: FrameType | None) -> None:
    raise _Terminated


def _stopped(code: int) -> int:
    sys.stderr.write("stopped: stages that were finished are kept, and a rerun resumes there\n")
    return code


def _extra_called(name: str) -> str | None:
    """That name, where an extra of rtc has it: those of runtimes are called as their modules."""
    from importlib import metadata

    try:
        extras = metadata.metadata("rtc-compiler").get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return None
    return name if name in extras else None


def _as_rtc_error(error: BaseException) -> RtcError:
    """The error of our tree that says what an exception means to a user."""
    if isinstance(error, RtcError):
        return error
    if isinstance(error, _USAGE_ERROR):
        return _usage(error)
    if isinstance(error, SystemExit):
        what = "code that the recipe names ended the program"
        return RecipeError(what, seen=f"sys.exit({error.code!r})", id="system-exit")
    return _machine(error) or _bug(error)


def _machine(error: BaseException) -> MachineError | None:
    """What this machine lacks, where that is what an exception says."""
    if isinstance(error, ModuleNotFoundError):
        top = (error.name or "").partition(".")[0]
        extra = _EXTRAS.get(top) or _extra_called(top.replace("_", "-"))
        if extra is None and top in {"", "rtc"}:
            return None
        fix = f"pip install 'rtc-compiler[{extra}]'" if extra else f"install what has {top} in it"
        name = "missing-extra" if extra else "missing-module"
        return MachineError(f"{error.name} is not installed", fix=fix, id=name)
    if isinstance(error, OSError) and error.errno is not None:
        where = str(error.filename or "")
        return MachineError(os.strerror(error.errno), where=where, id="os-error")
    if isinstance(error, MemoryError):
        return MachineError("out of memory", id="out-of-memory")
    return None


def _usage(error: BaseException) -> RecipeError:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "rtc"
    what = getattr(error, "format_message", error.__str__)()
    return RecipeError(what.rstrip("."), fix=f"see {path} --help", id="usage")


def _bug(error: BaseException) -> InternalError:
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = f"{Path(last[0].filename).name}:{last[0].lineno}" if last else ""
    return InternalError(
        f"{type(error).__name__}: {error}",
        where=where,
        fix="this is a bug of rtc: report it with what --debug prints and with rtc doctor --json",
    )


if __name__ == "__main__":
    raise SystemExit(main())
