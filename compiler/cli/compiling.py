"""`rtc compile`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtc.compiler.cli.answer import Answer, command
from rtc.compiler.cli.cache import Folder, open_store
from rtc.compiler.cli.watching import watched
from rtc.compiler.core.errors import BuilderError, GateError, RecipeError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rtc.compiler.pipeline import CompileResult

app = typer.Typer()

LEAST_S = 1.0  # a build, a run and a timing in processes of their own take that on any machine
_PART = re.compile(r"(\d{1,6}(?:\.\d+)?)\s*(min|[smh])")
_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


@command(app, "compile")
def compile_recipe(
    *,
    recipe: Annotated[Path, typer.Argument(help="The recipe file.")],
    target: Annotated[
        list[str] | None,
        typer.Option("--target", "-t", help="A device to compile for; may be given several times."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The folder for bundles.")] = Path("build"),
    cache: Folder = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", help="Time to search the mix in, for each target: 90s, 1h30m."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Use no earlier result.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> Answer:
    """Compile a recipe: an engine bundle for each target, with its proof.

    Ends with exit code 8 when a gate failed; the bundle is written all the same, marked failed. A
    target that cannot be built (6) leaves the others be.

    \b
    Example:
      rtc compile recipes/lenet5-mnist.yaml --target cpu --target rtx4060ti
      rtc compile recipes/lenet5-mnist.yaml --budget 10m
    """
    from rtc.compiler.pipeline import compile_each

    seconds = _seconds(budget) if budget is not None else None
    with watched(quiet) as listener:
        results, failed = compile_each(
            recipe,
            targets=target or None,
            out=out,
            store=open_store(cache, warn=listener.warned),
            listener=listener,
            fresh=fresh,
            budget=seconds,
        )
    text = "\n".join(str(r.bundle) for r in results) if quiet else _summary(results)
    document = {
        "results": [_document(r) for r in results],
        "failed": {target: str(error) for target, error in failed.items()},
    }
    return Answer(document, text, _unbuilt(failed) or _failure(results))


def _unbuilt(failed: Mapping[str, BuilderError]) -> BuilderError | None:
    """The first target that could not be built; a word on how many more there are."""
    for error in failed.values():
        if len(failed) > 1:
            others = ", ".join(list(failed)[1:])
            error.fix = "; ".join(filter(None, (error.fix, f"{others} could not be built either")))
        return error
    return None


def _seconds(text: str) -> float:
    """A time as people write it; a bare number is seconds.

    Raises:
        RecipeError: no time, one too short for even one plan to be tried, or longer than a day.
    """
    from rtc.compiler.recipe.sections import MOST_SECONDS

    given = text.strip().lower()
    given = given if given[-1:].isalpha() else f"{given}s"
    parts = _PART.findall(given)
    if not parts or _PART.sub("", given).strip():
        raise RecipeError(
            "not a time", where="--budget", seen=repr(text), expected="like 90s, 10m or 1h30m"
        )
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not LEAST_S <= seconds <= MOST_SECONDS:
        few = seconds < LEAST_S
        raise RecipeError(
            "the budget is too small to try a single plan in" if few else "too long a budget",
            where="--budget",
            seen=text,
            expected=f"at least {LEAST_S:g}s" if few else f"at most {MOST_SECONDS / 3600:g}h",
            fix="give it more, or search nothing: precision.search: null in the recipe"
            if few
            else "",
            id="small-budget" if few else "large-budget",
        )
    return seconds


def _summary(results: Sequence[CompileResult]) -> RenderableType:
    from rtc.compiler.report.terminal import summary

    return summary([r.report for r in results], [r.bundle for r in results])


def _document(result: CompileResult) -> dict[str, Any]:
    from rtc.compiler.report.serial import to_json

    return {
        "target": result.target,
        "bundle": str(result.bundle),
        "passed": result.passed,
        "reused": result.reused,
        "report": json.loads(to_json(result.report)),
    }


def _failure(results: Sequence[CompileResult]) -> GateError | None:
    """The gates that failed, all in one line."""
    from rtc.compiler.select.gates import reasons

    failed = [r for r in results if not r.passed]
    if not failed:
        return None
    targets = "; ".join(f"{r.target}: {reasons(r.report.gates)}" for r in failed)
    pages = ", ".join(str(r.bundle / "report.html") for r in failed)
    advice = f"what was built is written, marked failed: see {pages}"
    return GateError(f"a gate failed: {targets}", fix=advice)
