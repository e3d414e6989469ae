"""`rtc inspect | run | eval | bench`: what can be done with a bundle."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtc.compiler.cli.answer import Answer, command, printable
from rtc.compiler.cli.options import Bundle, Quiet
from rtc.compiler.cli.watching import step
from rtc.compiler.core.errors import DataError, GateError, RecipeError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rtc.compiler.core.results import AccuracyRow
    from rtc.compiler.diagnose.remeasure import Revisited

app = typer.Typer()
_SHOWN = 20  # samples that `run` prints

RecipeBeside = Annotated[
    Path | None,
    typer.Option("--recipe", help="The recipe's file, where its data lies beside it."),
]


@command(app, "inspect")
def inspect(
    path: Annotated[Path, typer.Argument(help="A bundle, or an ONNX file.")],
    layers: Annotated[bool, typer.Option("--layers", help="Show every layer.")] = False,
) -> Answer:
    """Verify a bundle and show its report, or show what an ONNX file holds.

    \b
    Example:
      rtc inspect build/lenet5-mnist/cpu --layers
    """
    if path.suffix == ".onnx":
        from rtc.compiler.cli.onnx_file import inspect_onnx

        return inspect_onnx(path, layers=layers)
    if path.suffix in (".yaml", ".yml"):
        raise RecipeError("that is no bundle", where=str(path), fix=f"rtc recipe check {path}")
    return _inspect_bundle(path, layers)


def _inspect_bundle(path: Path, layers: bool) -> Answer:
    from rtc.compiler.bundle import bundles
    from rtc.compiler.report.serial import from_json
    from rtc.compiler.report.terminal import details

    verified = bundles.verify(path)
    content = verified.files["report.json"]
    report = from_json(content)
    document = {
        "bundle": str(verified.path),
        "manifest": json.loads(verified.manifest.to_json()),
        "report": json.loads(content),
    }
    return Answer(document, details(report if layers else replace(report, layers=())))


@command(app, "run")
def run(
    *,
    bundle: Bundle,
    input: Annotated[
        Path,
        typer.Option(
            "--input", "-i", help="Samples: .npy, .npz with an array x, a picture, or a folder."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the engine's output here (.npy).")
    ] = None,
    preprocessed: Annotated[
        bool, typer.Option("--preprocessed/--raw", help="Whether samples are preprocessed already.")
    ] = False,
    top: Annotated[int, typer.Option("--top", min=1, help="Classes to show for each sample.")] = 3,
) -> Answer:
    """Verify a bundle, load its engine and run it on samples.

    \b
    Examples:
      rtc run build/lenet5-mnist/cpu --input digits.npy --output logits.npy
      rtc run build/lenet5-mnist/cpu --input pictures/
    """
    from rtc.compiler.bundle.engine import load
    from rtc.compiler.cli import samples

    with load(bundle) as engine:
        given, names = samples.read(input, engine, preprocessed=preprocessed)
        answers, kind = samples.infer(engine, given, preprocessed=preprocessed), engine.output
    if output is not None:
        samples.write(output, answers)
    document = {
        "samples": len(answers),
        "shape": list(answers.shape),
        "gives": str(kind),
        "output": str(output or ""),
    }
    if answers.ndim != 2:
        return Answer(document, f"{len(answers)} samples, output {answers.shape}")
    best = samples.top_classes(answers, kind, top)
    return Answer({**document, "names": list(names), "top": best}, _classes(names, best))


def _classes(names: Sequence[str], best: list[list[dict[str, Any]]]) -> str:
    """A line for each of the first samples."""
    width = max(5, *(len(name) for name in names[:_SHOWN]))
    lines = [
        f"{printable(name):>{width}}  "
        + "   ".join(f"{b['class']} ({b['probability']:.1%})" for b in row)
        for name, row in zip(names[:_SHOWN], best, strict=False)
    ]
    more = len(best) - _SHOWN
    return "\n".join(lines + ([f"  … and {more} more; --json shows all"] if more > 0 else []))


@command(app, "eval")
def evaluate(bundle: Bundle, recipe: RecipeBeside = None, quiet: Quiet = False) -> Answer:
    """Verify a bundle and measure the accuracy of its engine once more, on the recipe's test set.

    \b
    Example:
      rtc eval build/lenet5-mnist/cpu
    """
    from rtc.compiler.diagnose import remeasure

    again = remeasure.revisit(bundle, recipe)
    with step("eval", quiet) as progress:
        rows = remeasure.evaluate(again, progress)
    rows += tuple(replace(row, subject=f"{row.subject}, as reported") for row in again.reported)
    document = {"bundle": str(again.verified.path), "same_data": again.same_data}
    return Answer(
        {**document, "accuracy": [_row(row) for row in rows]}, _accuracy(rows), _other_data(again)
    )


def _row(row: AccuracyRow) -> dict[str, Any]:
    from rtc.compiler.core import evidence

    figures = ("top1", "top5", "loss", "agreement")
    values = {name: getattr(row, name) for name in figures}
    numbers = {name: None if v is None else evidence.to_dict(v) for name, v in values.items()}
    return {"subject": row.subject, **numbers, "runs_on": row.runs_on}


def _accuracy(rows: Iterable[AccuracyRow]) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from rtc.compiler.report.terminal import evidence_text

    table = Table("model", "top-1", "top-5", "loss", "agreement", "runs on", box=SIMPLE_HEAD)
    for row in rows:
        others = (evidence_text(figure) for figure in (row.top5, row.loss, row.agreement))
        top1 = evidence_text(row.top1, spread=True)
        table.add_row(Text(row.subject), top1, *others, Text(row.runs_on))
    return table


def _other_data(again: Revisited) -> DataError | None:
    if again.same_data:
        return None
    return DataError(
        "these samples are not those that the bundle was compiled with",
        where=str(again.verified.path),
        seen=again.data.digest,
        expected=again.verified.manifest.sources.get("data", ""),
        fix="name the recipe and the data that it was compiled from",
        id="other-data",
    )


@command(app, "bench")
def bench(
    *,
    bundle: Bundle,
    batch: Annotated[
        list[int] | None,
        typer.Option("--batch", "-b", min=1, help="A batch to time; may be given several times."),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.1, max=3600, help="Time for all timings together.")
    ] = 6.0,
    recipe: RecipeBeside = None,
    quiet: Quiet = False,
) -> Answer:
    """Verify a bundle and time its engine on this machine.

    Figures that waited for this device are written beside the bundle, as BUNDLE.bench.json and
    BUNDLE.bench.html, and gates that waited are judged.

    \b
    Example:
      rtc bench build/lenet5-mnist/rtx4060ti --batch 1 --batch 64
    """
    from rich.console import Group
    from rich.text import Text

    from rtc.compiler.diagnose import remeasure
    from rtc.compiler.report.serial import to_json
    from rtc.compiler.report.terminal import details
    from rtc.compiler.select import gates

    again = remeasure.revisit(bundle, recipe)
    with step("bench", quiet) as progress:
        report = remeasure.bench(again, batch or (), seconds, progress)
    written, page = remeasure.publish(again, report)
    document = {
        "bundle": str(again.verified.path),
        "written": [str(written), str(page)],
        "report": json.loads(to_json(report)),
    }
    shown = replace(report, layers=(), candidates=(), accuracy=())
    reasons = gates.reasons(report.gates)
    failure = GateError(f"a gate failed: {reasons}", fix=f"see {page}") if reasons else None
    return Answer(document, Group(details(shown), Text(f"report  {page}")), failure)
