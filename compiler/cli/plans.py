"""`rtc precision show | why | try | diff`: what a plan is, why, and what a change would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtc.compiler.cli.answer import Answer, command
from rtc.compiler.cli.cache import Folder, open_store
from rtc.compiler.cli.options import BackendOption, Bundle, Quiet, RecipeFile, Target
from rtc.compiler.cli.watching import watched
from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.precision import Precision, ResidualPolicy

if TYPE_CHECKING:
    from rtc.compiler.core.results import Report
    from rtc.compiler.diagnose.layer_view import LayerView
    from rtc.compiler.diagnose.what_if import Attempt

app = typer.Typer()

BuiltCandidate = Annotated[
    str,
    typer.Option("--candidate", "-c", help="One that does not ship, such as 'openvino mix'."),
]
_POLICIES = tuple(policy.value for policy in ResidualPolicy)
_WORDS = {"fp16": "half", **{precision.value: precision.value for precision in Precision}}


@command(app, "show")
def show(
    *,
    bundle: Bundle,
    sort: Annotated[
        str, typer.Option("--sort", "-s", help="graph, name, snr, gain or time.")
    ] = "graph",
    layer: Annotated[
        list[str] | None,
        typer.Option("--layer", "-l", help="Only layers of this name or glob; repeatable."),
    ] = None,
    precision: Annotated[
        str, typer.Option("--precision", "-p", help="Only layers planned in it: int8, half, fp32.")
    ] = "",
    residuals: Annotated[
        bool, typer.Option("--residuals", "-r", help="Show the residual ledger instead of layers.")
    ] = False,
    candidate: BuiltCandidate = "",
) -> Answer:
    """Show every layer's precision, planned and built, what INT8 costs it and what it takes.

    \b
    Examples:
      rtc precision show build/lenet5-mnist/cpu --sort snr
      rtc precision show build/lenet5-mnist/cpu --layer '*conv*' --precision int8
      rtc precision show build/resnet20-signs43/cpu --residuals
      rtc precision show build/lenet5-mnist/cpu --candidate 'openvino int8'
    """
    from rtc.compiler.diagnose.layer_view import arranged, candidates_of, search_of, views
    from rtc.compiler.diagnose.tables import layer_table, ledger_table

    report = _report(bundle)
    wanted = _precision(precision).value if precision else ""
    shown = candidate or report.shipped
    chosen = arranged(views(report, shown), sort=sort, only=layer or (), precision=wanted)
    search = search_of(report, shown)
    document = {
        "bundle": str(bundle),
        "shipped": report.shipped,
        "candidate": shown,
        "candidates": list(candidates_of(report)),
        "search": asdict(search) if search else None,
        "layers": [_document(view) for view in chosen],
    }
    if residuals:
        if search is None or not search.ledger:
            raise RecipeError("this bundle has no residual ledger: nothing was searched, or no Add")
        return Answer(document, ledger_table(search))
    others = [row for row in candidates_of(report) if row != shown]
    return Answer(document, layer_table(shown, chosen, search, others=others))


@command(app, "why")
def why(
    *,
    bundle: Bundle,
    layer: Annotated[str, typer.Argument(help="The layer.")],
    candidate: BuiltCandidate = "",
) -> Answer:
    """Tell the evidence behind one layer's precision, or a residual Add's policy.

    \b
    Example:
      rtc precision why build/lenet5-mnist/cpu conv1 --candidate 'openvino mix'
    """
    from rtc.compiler.diagnose.layer_view import search_of, unknown_layer, views
    from rtc.compiler.diagnose.tables import layer_story

    report = _report(bundle)
    known = {view.row.name: view for view in views(report, candidate)}
    if layer not in known:
        raise unknown_layer(layer, list(known))
    search = search_of(report, candidate)
    residual = next((row for row in search.ledger if row.add == layer), None) if search else None
    document = {
        **_document(known[layer]),
        "residual": asdict(residual) if residual else None,
        "samples": search.samples if search else None,
        "engine": search.engine if search else None,
    }
    return Answer(document, layer_story(known[layer], search))


@command(app, "try")
def attempt(
    *,
    recipe: RecipeFile,
    change: Annotated[
        list[str],
        typer.Option("--set", help="layer=precision or add=policy, by name or glob; repeatable."),
    ],
    plan: Annotated[
        Path | None,
        typer.Option("--plan", help="The plan to change: a file or a bundle; else the rules'."),
    ] = None,
    target: Target = "",
    backend: BackendOption = "",
    cache: Folder = None,
    quiet: Quiet = False,
) -> Answer:
    """Try a change of a plan on the real runtime: what it does to accuracy and time.

    No search is made: both plans are built, run on calibration samples and timed in turns with the
    float engine. For a device that is not here they are estimated.

    \b
    Examples:
      rtc precision try recipes/lenet5-mnist.yaml --set 'conv1=fp16'
      rtc precision try recipes/resnet20-signs43.yaml --set '*add*=keep-half'
    """
    from rtc.compiler.diagnose.tables import attempt_table
    from rtc.compiler.diagnose.what_if import attempt as tried
    from rtc.compiler.execution.stages import Stages
    from rtc.compiler.recipe.schema import load_recipe

    changes = _changes(change)
    pins = {name: each for name, each in changes.items() if isinstance(each, Precision)}
    policies = {name: each for name, each in changes.items() if isinstance(each, ResidualPolicy)}
    given = load_recipe(recipe)
    with watched(quiet) as listener:
        stages = Stages(
            open_store(cache, warn=listener.warned), listener, owner=str(given.path.resolve())
        )
        result = tried(
            given, stages, pins, policies=policies, plan=plan, target=target, backend=backend
        )
    return Answer(_attempt_document(result), attempt_table(result))


@command(app, "diff")
def diff(
    *,
    first: Annotated[Path, typer.Argument(help="A plan file or a bundle.")],
    second: Annotated[Path, typer.Argument(help="Another.")],
) -> Answer:
    """Show two plans side by side: which layers differ, and why.

    \b
    Example:
      rtc precision diff build/lenet5-mnist/cpu my-plan.yaml
    """
    from rtc.compiler.diagnose.plan_difference import changes, side
    from rtc.compiler.diagnose.tables import difference_table

    sides = side(first), side(second)
    differences = changes(sides[0].plan, sides[1].plan)
    document = {
        "same_model": sides[0].plan.model == sides[1].plan.model,
        "changes": [asdict(each) for each in differences],
    }
    return Answer(document, difference_table(*sides, differences))


def _report(path: Path) -> Report:
    from rtc.compiler.bundle import bundles
    from rtc.compiler.publish.bundle_content import report_of

    if path.suffix in (".yaml", ".yml"):
        fix = f"compile it first: rtc compile {path}"
        raise RecipeError("that is no bundle", where=str(path), fix=fix)
    return report_of(bundles.verify(path))


def _changes(texts: Sequence[str]) -> dict[str, Precision | ResidualPolicy]:
    """`layer=precision` or `add=policy`, each name once; it may itself hold an equals sign."""
    pins: dict[str, Precision | ResidualPolicy] = {}
    for text in texts:
        name, equals, word = text.rpartition("=")
        if not equals or not name:
            raise RecipeError(
                "not a change",
                where="--set",
                seen=repr(text),
                expected="layer=precision or add=policy",
                id="usage",
            )
        wanted = ResidualPolicy(word) if word in _POLICIES else _precision(word, *_POLICIES)
        if pins.setdefault(name, wanted) is not wanted:
            raise RecipeError(
                f"two changes contradict each other on {name}",
                where="--set",
                seen=f"{pins[name]} and {wanted}",
                id="contradictory-pins",
            )
    return pins


def _precision(word: str, *other: str) -> Precision:
    """The precision of that name; `other` words could have been meant as well."""
    from rtc.compiler.core.naming import nearest

    if word not in _WORDS:
        raise RecipeError(
            "no such precision", seen=repr(word), fix=nearest(word, [*_WORDS, *other])
        )
    return Precision(_WORDS[word])


def _document(view: LayerView) -> dict[str, Any]:
    losses = {precision: asdict(row) for precision, row in view.losses.items()}
    return {**asdict(view.row), "losses": losses, "times_us": dict(view.times_us)}


def _attempt_document(result: Attempt) -> dict[str, Any]:
    return {
        "candidate": result.candidate,
        "samples": result.samples,
        "before": _outcome(result.before),
        "after": _outcome(result.after),
        "changes": [asdict(change) for change in result.changes],
    }


def _outcome(outcome: Any) -> dict[str, Any]:
    fields = asdict(outcome)
    fields.pop("shares")
    return fields
