"""`rtc precision culprits`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rtc.compiler.cli.answer import Answer, command, printable
from rtc.compiler.cli.cache import Folder, open_store
from rtc.compiler.cli.options import BackendOption, Quiet, RecipeFile, Target, VariantOption
from rtc.compiler.cli.watching import step_of, watched
from rtc.compiler.core.errors import MachineError
from rtc.compiler.core.precision import Variant
from rtc.compiler.diagnose.quantity import Quantity

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rtc.compiler.core.evidence import Measured
    from rtc.compiler.diagnose.culprits import Culprits

app = typer.Typer()


@command(app, "culprits")
def culprits(
    *,
    recipe: RecipeFile,
    target: Target = "",
    backend: BackendOption = "",
    variant: VariantOption = Variant.INT8,
    metric: Annotated[
        Quantity, typer.Option("--metric", "-m", help="With float; top1 is the drop of top-1.")
    ] = Quantity.AGREEMENT,
    at_least: Annotated[
        float | None, typer.Option("--at-least", help="Least agreement (0 to 1) or SNR (dB).")
    ] = None,
    at_most: Annotated[
        float | None, typer.Option("--at-most", help="Largest drop of top-1 (0 to 1).")
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", "-n", min=1, help="Test samples of every trial.")
    ] = 256,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the recipe patch here.")
    ] = None,
    cache: Folder = None,
    quiet: Quiet = False,
) -> Answer:
    """Find a minimal set of layers that breaks a metric, by trials on the real runtime.

    With these layers put back to float the metric holds, and with any one of them left as planned
    it does not. The limit is the recipe's gate where none is given.

    \b
    Example:
      rtc precision culprits recipes/lenet5-mnist.yaml --metric agreement --at-least 0.99
    """
    from rtc.compiler.diagnose.culprits import culprits as search
    from rtc.compiler.diagnose.metric import metric_of
    from rtc.compiler.diagnose.session import opened
    from rtc.compiler.execution.stages import Stages
    from rtc.compiler.recipe.schema import load_recipe

    if out is not None:
        _refuse_unwritable(out)  # found out before the work, not after it
    given = load_recipe(recipe)
    held = metric_of(given, metric, at_least=at_least, at_most=at_most)
    with watched(quiet) as listener:
        store = open_store(cache, warn=listener.warned)
        stages = Stages(store, listener, owner=str(given.path.resolve()))
        session = opened(given, stages, target=target, backend=backend, variant=variant)
        split = session.job.context.data.test.head(samples)
        with step_of(listener, "culprits") as progress:
            result = search(session, held, split, progress)
    written = _written(result, out)
    document = {**result.to_dict(), "written": str(written or "")}
    return Answer(document, _drawn(result, written))


def _refuse_unwritable(out: Path) -> None:
    if out.is_dir() or not out.parent.is_dir():
        raise MachineError("no file can be written there", where=str(out))


def _written(result: Culprits, out: Path | None) -> Path | None:
    """Where the recipe patch was written; there is none where no layer is to blame."""
    if out is None or not result.layers:
        return None
    out.write_text(result.patch, encoding="utf-8")
    return out


def _drawn(result: Culprits, written: Path | None) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    if not result.layers:
        return f"{result.candidate}: {result.metric} holds as planned: {_told(result.before)}"
    count = f"{len(result.layers)} of {result.offered} layers"
    lines = [
        f"{result.candidate}: {result.metric} does not hold: {_told(result.before)}",
        f"{count} break it; with them put back it is {_told(result.after)}",
    ]
    if not result.surely_broken:
        lines.append("the limit lies in the 95 % interval: more --samples may tell otherwise")
    end = [
        f"{result.tests} graphs built and run in {result.seconds:.1f} s, {result.before.where}",
        f"written to {printable(str(written))}:" if written else "merge this into the recipe:",
    ]
    patch = Text(result.patch.rstrip(), no_wrap=True, overflow="ignore")  # a broken line is no YAML
    return Group("\n".join(lines), _table(result), "\n".join(end), patch)


def _table(result: Culprits) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table("layer", "operator", "planned", "pin", "own SNR", box=SIMPLE_HEAD)
    for layer in result.layers:
        snr = "" if layer.snr_db is None else f"{layer.snr_db:.1f} dB"
        words = (printable(layer.layer), layer.op, layer.planned.value, layer.pin.value, snr)
        table.add_row(*(Text(word, overflow="fold") for word in words))
    return table


def _told(measured: Measured) -> str:
    from rtc.compiler.report.figures import figure

    text = figure(measured)
    return f"{text.text} ({text.spread}; {measured.samples:,} samples)"
