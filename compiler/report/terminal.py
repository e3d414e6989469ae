"""Reports on a terminal, as rich renderables.

Text from a recipe or a model is cleaned of control characters and never parsed as markup, so that
a layer's name can neither steer the terminal nor colour itself green.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rtc.compiler.core.evidence import Evidence
from rtc.compiler.core.results import CandidateRow, GateRow, LatencyRow, LayerRow, Report
from rtc.compiler.report.facts import Fact, facts
from rtc.compiler.report.figures import amount, clean, factor, figure, significant

_STYLES = {"estimated": "cyan", "pending": "yellow"}
_STATES = {
    "shipped": "green",
    "kept": "green",
    "folded": "dim",
    "changed": "bold red",
    "unknown": "bold yellow",
    "refused": "red",
    "failed": "red",
}


def evidence_text(evidence: Evidence | None, *, spread: bool = False) -> Text:
    """Evidence that says what it is: "31.2 µs", "≈ 31.2 µs est.", "pending: RTX 4060 Ti".

    Args:
        evidence: what to write; None writes a dash.
        spread: add the interval of a measured figure.
    """
    if evidence is None:
        return Text("–", "dim")
    shown = figure(evidence)
    if shown.kind == "pending":
        return Text(clean(f"pending: {shown.source.removeprefix('waits for ')}"), "yellow")
    text = _marked(shown.kind, shown.text)
    if spread and shown.spread:
        text.append(f" ({shown.spread})", "dim")
    return text


def summary(reports: Sequence[Report], bundles: Sequence[Path]) -> RenderableType:
    """What a compile ends with: a column for each target, then where the bundles lie.

    Args:
        reports: one for each target.
        bundles: the bundle of each report, in the same order.
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    for report in reports:
        table.add_column(Text(clean(f"{report.recipe} → {report.target}")))
    table.add_row("verdict", *(_verdict(report) for report in reports))
    ships = any(report.passed for report in reports)
    table.add_row(
        "ships" if ships else "not shipped", *(_shipped(report, ships) for report in reports)
    )
    columns = [{fact.title: fact for fact in facts(report)} for report in reports]
    for title in dict.fromkeys(title for column in columns for title in column):
        table.add_row(title, *(_fact(column.get(title)) for column in columns))
    places = [
        Text(clean(f"{title:<8}{path}"), overflow="fold")
        for bundle in bundles
        for title, path in (("bundle", bundle), ("report", bundle / "report.html"))
    ]
    doubts = _doubts(reports)
    return Group(table, "", *doubts, *([""] if doubts else []), *places)


def details(report: Report) -> RenderableType:
    """What `rtc inspect` shows: the verdict, then a table for each part of the report."""
    head = Text.assemble(
        _verdict(report), "  ", (clean(report.headline), "bold"), "\n",
        (clean(f"{report.recipe} {report.version} → {report.target}"), "dim"), "\n",
    )  # fmt: skip
    parts: list[RenderableType] = [head]
    parts += _doubts([report])
    parts += [_gates(report.gates)] if report.gates else []
    parts += [_accuracy(report)] if report.accuracy else []
    parts += [_latency(report.latency)] if report.latency else []
    parts += [_candidates(report.candidates)] if report.candidates else []
    parts += [_layers(report.layers)] if report.layers else []
    parts += [Text(f"• {clean(note)}", "yellow") for note in report.notes]
    return Group(*parts)


def _marked(kind: str, text: str) -> Text:
    """A figure with the mark of its kind; a measured one needs none."""
    return Text(f"≈ {text} est." if kind == "estimated" else text, _STYLES.get(kind, ""))


def _shipped(report: Report, others: bool) -> Text:
    """The engine; where a gate failed and `others` ship, with the word that it does not."""
    word = "not shipped: " if others and not report.passed else ""
    return Text(clean(word + report.shipped), "bold" if report.passed else "")


def _doubts(reports: Sequence[Report]) -> list[Text]:
    """Each doubt once, with the targets that it is of where it is not of all."""
    targets: dict[str, list[str]] = {}
    for report in reports:
        for text in report.doubts:
            targets.setdefault(text, []).append(report.target)
    lines = (
        text if len(names) == len(reports) else f"{', '.join(names)}: {text}"
        for text, names in targets.items()
    )
    return [Text(clean(f"! {text}"), "bold yellow") for text in lines]


def _verdict(report: Report) -> Text:
    failed = [gate.name for gate in report.gates if gate.passed is False]
    waiting = [gate.name for gate in report.gates if gate.passed is None]
    text = Text("PASS", "bold green") if report.passed else Text("FAIL", "bold red")
    if not report.gates:
        text.append(" (no gate was asked)", "yellow")
    if failed:
        text.append(clean(f": {', '.join(failed)}"), "red")
    if waiting:
        text.append(clean(f" (waiting: {', '.join(waiting)})"), "yellow")
    return text


def _fact(fact: Fact | None) -> Text:
    if fact is None:
        return Text("–", "dim")
    text = _marked(fact.kind, clean(fact.text or "pending"))
    text.stylize("bold")
    for line in fact.details:
        text.append(f"\n{clean(line)}", "dim")
    return text


def _table(title: str, *columns: str, right: Iterable[str] = ()) -> Table:
    """A table that keeps its shape in a pipe; the columns named in `right` hold numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD,
                  show_edge=False, pad_edge=False)  # fmt: skip
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def _add(table: Table, *cells: str | Text) -> None:
    """Add a row; a string is text from outside: cleaned, and its brackets no markup."""
    table.add_row(*(Text(clean(cell)) if isinstance(cell, str) else cell for cell in cells))


def _gates(rows: Iterable[GateRow]) -> Table:
    table = _table("Gates", "gate", "result", "asked", "found", "reason")
    results = {True: ("pass", "green"), False: ("FAIL", "bold red"), None: ("waits", "yellow")}
    for row in rows:
        _add(table, row.name, Text(*results[row.passed]), row.asked, row.found, row.reason)
    return table


def _accuracy(report: Report) -> Table:
    five = any(row.top5 for row in report.accuracy)
    columns = ("model", "top-1", *(["top-5"] if five else []), "loss", "agreement", "runs on")
    table = _table("\nAccuracy", *columns)
    for row in report.accuracy:
        top1 = evidence_text(row.top1, spread=True)
        figures = (*([row.top5] if five else []), row.loss, row.agreement)
        _add(table, report.called(row), top1, *map(evidence_text, figures), row.runs_on)
    return table


def _latency(rows: Iterable[LatencyRow]) -> Table:
    numbers = ("batch", "p99", "samples/s", "speed-up")
    table = _table("\nLatency", "subject", "mode", "batch", "median", *numbers[1:], right=numbers)
    for row in rows:
        mark = "≈ " if figure(row.evidence).kind == "estimated" else ""
        p99 = amount(row.percentiles["p99"], "ms") if "p99" in row.percentiles else "–"
        fps = "–" if row.fps is None else mark + significant(row.fps)
        faster = "–" if row.speedup is None else mark + factor(row.speedup, row.speedup_interval)
        median = evidence_text(row.evidence)
        _add(table, row.subject, row.mode, str(row.batch), median, p99, fps, faster)
    return table


def _candidates(rows: Iterable[CandidateRow]) -> Table:
    table = _table("\nCandidates", "engine", "outcome", "latency", "top-1", "reason")
    for row in rows:
        figures = (evidence_text(row.latency), evidence_text(row.top1))
        _add(table, row.name, _state(row.state), *figures, row.reason)
    return table


def _layers(rows: Iterable[LayerRow]) -> Table:
    columns = ("layer", "planned", "built", "verdict", "SNR, dB", "reason")
    table = _table("\nLayers", *columns, right=("SNR, dB",))
    for row in rows:
        planned = f"{row.planned} (pinned)" if row.pinned else row.planned
        snr = "–" if row.snr_db is None else f"{row.snr_db:.1f}"
        _add(table, row.name, planned, row.built or "–", _state(row.verdict), snr, row.reason)
    return table


def _state(word: str) -> Text:
    return Text(clean(word), _STATES.get(word, ""))
