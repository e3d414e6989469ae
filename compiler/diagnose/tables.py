"""Tables of `rtc precision` on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from rtc.compiler.core.precision import Precision
from rtc.compiler.diagnose.layer_view import INT8, band_words
from rtc.compiler.report.figures import change, clean, plans, significant
from rtc.compiler.report.terminal import evidence_text

if TYPE_CHECKING:
    from rtc.compiler.core.intervals import Interval
    from rtc.compiler.core.results import AddRow, LayerRow, LossRow, PolicyRow, SearchRow
    from rtc.compiler.diagnose.layer_view import LayerView
    from rtc.compiler.diagnose.plan_difference import Change, Side
    from rtc.compiler.diagnose.what_if import Attempt
    from rtc.compiler.search.trial import Outcome

_COLOURS = {"int8": "green", "half": "cyan", "fp32": "", "": "dim"}
_VERDICTS = {"changed": "bold red", "unknown": "bold yellow"}
_NAMES = ("operator", "shape", "planned", "built")
_LEDGER = ("branch, skip", "policy", "Add dB", "output dB", "top-1 drop", "time")
_ROOMY = ("branch, skip", "top-1 drop")  # what a narrow ledger does without
_LEDGER_WIDE = 140
_WIDE = 110  # columns: below, figures and reasons do not fit beside each other


def layer_table(
    candidate: str,
    found: Sequence[LayerView],
    search: SearchRow | None,
    *,
    others: Sequence[str] = (),
) -> RenderableType:
    """One line for each layer: what it runs in, what INT8 loses, what it takes, and why."""
    lines = [f"{clean(candidate)}: {_ground(search)}"]
    if others:
        lines.append(f"built as well, see --candidate: {clean(', '.join(others))}")
    return Group(*(Text(line) for line in lines), _LayerTable(found))


@dataclass(frozen=True)
class _LayerTable:
    """Reasons stand beside their layers where there is room, else below them."""

    found: Sequence[LayerView]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.max_width >= _WIDE
        names, rows = self._cells(wide=wide)
        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
        table.add_column("layer", overflow="fold", min_width=16)
        for name in names:
            table.add_column(name, justify="left" if name in _NAMES else "right")
        if wide:
            table.add_column("because", overflow="fold", ratio=1)
        for view, cells in zip(self.found, rows, strict=True):
            layer = Text(clean(view.row.name) + (" (pinned)" if view.row.pinned else ""))
            reason = [Text(clean(view.row.reason), "dim")] if wide else []
            table.add_row(layer, *cells, *reason)
        yield table
        if not wide:
            yield Text("rtc precision why BUNDLE LAYER tells the rest", "dim")

    def _cells(self, *, wide: bool) -> tuple[list[str], list[list[Text]]]:
        """The names of the columns that hold anything, and each layer's cells."""
        odd = any(view.row.verdict in _VERDICTS for view in self.found)
        names = _NAMES if wide else ("planned", "built") if odd else ("planned",)
        seen = {how for view in self.found for how in view.times_us}
        ways = [precision.value for precision in Precision if precision.value in seen]
        columns = {name: [_word(name, view.row) for view in self.found] for name in names}
        losses = [view.losses.get(INT8) for view in self.found]
        figures = {
            "own dB": [
                _decibels(loss.layer_snr_db if loss else view.row.snr_db)
                for view, loss in zip(self.found, losses, strict=True)
            ],
            "output dB": [_decibels(view.output_snr_db) for view in self.found],
            "top-1": [_drop(loss if wide else None) for loss in losses],
            **{f"µs {how}": [_time(view.times_us.get(how)) for view in self.found] for how in ways},
        }
        columns |= {n: cells for n, cells in figures.items() if any(c.plain != "–" for c in cells)}
        return list(columns), [list(row) for row in zip(*columns.values(), strict=True)]


def _word(column: str, row: LayerRow) -> Text:
    built = row.built or row.verdict
    return {
        "operator": Text(row.op),
        "shape": Text(clean(row.shape)),
        "planned": Text(row.planned, _COLOURS.get(row.planned, "")),
        "built": Text(built, _VERDICTS.get(row.verdict, _COLOURS.get(row.built, ""))),
    }[column]


def _drop(loss: LossRow | None) -> Text:
    drop = loss.top1_drop if loss else None
    return Text("–", "dim") if drop is None else Text(change(-drop[0]))


def layer_story(view: LayerView, search: SearchRow | None) -> RenderableType:
    """All that is known of one layer."""
    row = view.row
    pinned = " (pinned)" if row.pinned else ""
    head = (
        f"{clean(row.name)}  {row.op} → {clean(row.shape)}\n"
        f"planned {row.planned}{pinned}, built {row.built or '–'}: {row.verdict}\n"
        f"because  {clean(row.reason)}"
    )
    own = [entry for entry in search.ledger if entry.add == row.name] if search else []
    if search and own:
        return Group(head, ledger_table(replace(search, ledger=tuple(own))))
    if not view.losses and not view.times_us:
        return f"{head}\nno search has looked at it on its own"
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("it alone in")
    for name in ("own dB", "output dB", "KL, nats", "agreement", "top-1 drop", "µs"):
        table.add_column(name, justify="right")
    for how in dict.fromkeys((*view.losses, *view.times_us)):
        loss = view.losses.get(how)
        table.add_row(
            Text(how, _COLOURS.get(how, "")),
            _decibels(loss.layer_snr_db if loss else None),
            band_words(loss.output_snr_db) if loss else "",
            band_words(loss.kl, digits=5) if loss else "",
            f"{band_words(loss.agreement, 100, 2)} %" if loss else "",
            f"{band_words(loss.top1_drop, 100, 2)} pt" if loss and loss.top1_drop else "",
            _time(view.times_us.get(how)),
        )
    return Group(head, table, Text(_ground(search), "dim"))


def ledger_table(search: SearchRow) -> RenderableType:
    """The residual ledger: each Add under every policy."""
    note = f"errors on {search.ledger_samples} calibration samples, intervals 95 %"
    return Group(_LedgerTable(search.ledger), Text(note, "dim"))


@dataclass(frozen=True)
class _LedgerTable:
    """Branches and drops stand beside the policies where there is room, else they are left out."""

    rows: Sequence[AddRow]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.max_width >= _LEDGER_WIDE
        names = _LEDGER if wide else [name for name in _LEDGER if name not in _ROOMY]
        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
        table.add_column("residual Add", overflow="fold", min_width=12)
        for name in names:
            words = name in ("branch, skip", "policy")
            table.add_column(name, justify="left" if words else "right", no_wrap=True)
        for row in self.rows:
            for index, policy in enumerate(row.policies):
                cells = _policy(row, policy, first=index == 0)
                add = Text("" if index else clean(row.add))
                table.add_row(add, *(cells[name] for name in names))
            if not row.policies:
                cells = {"branch, skip": _ranges(row), "policy": Text(row.choice)}
                table.add_row(Text(clean(row.add)), *(cells.get(name, "") for name in names))
        yield table
        for row in self.rows:
            if not row.policies and row.left_out:
                why = next(iter(row.left_out.values()))
                yield Text(clean(f"{row.add}: {why}"), "dim")
        if not wide:
            yield Text("rtc precision why BUNDLE ADD, in a wider window, tells the rest", "dim")


def _policy(row: AddRow, each: PolicyRow, *, first: bool) -> dict[str, Text]:
    """The cells of one policy, by column."""
    chosen = each.policy == row.choice
    drop = f"{band_words(each.top1_drop, 100, 2)} pt" if each.top1_drop else "–"
    return {
        "branch, skip": _ranges(row) if first else Text(),
        "policy": Text(f"{each.policy}{' ✓' if chosen else ''}", "bold green" if chosen else ""),
        "Add dB": _decibels(each.add_snr_db),
        "output dB": Text(band_words(each.output_snr_db)),
        "top-1 drop": Text(drop),
        "time": evidence_text(each.time),
    }


def _ranges(row: AddRow) -> Text:
    return Text(", ".join(f"{low:.3g} … {high:.3g}" for low, high in row.ranges))


def attempt_table(found: Attempt) -> RenderableType:
    """What changes, and both outcomes side by side."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in (clean(found.candidate), "before", "after"):
        table.add_column(name)
    pair = (found.before, found.after)
    table.add_row("latency, forward", *(evidence_text(each.latency, spread=True) for each in pair))
    table.add_row("against float", *(_ratio(each) for each in pair))
    table.add_row("agreement", *(_share(each.agreement, "%") for each in pair))
    table.add_row("top-1 drop", *(_share(each.top1_drop, "pt") for each in pair))
    note = f"on {found.samples} calibration samples; intervals are 95 %"
    if not found.changes:
        note = f"nothing changes: the plan has these layers so already\n{note}"
    return Group(_changes(found.changes, "before", "after"), table, Text(note, "dim"))


def difference_table(first: Side, second: Side, found: Sequence[Change]) -> RenderableType:
    """The layers that differ, and what the bundles' reports say of both."""
    other = first.plan.model != second.plan.model
    warning = [Text("plans of different models: layers are compared by name", "yellow")]
    headlines = [
        Text(f"{clean(each.name)}: {clean(each.report.headline)}")
        for each in (first, second)
        if each.report is not None
    ]
    same = len({*first.plan.layers, *second.plan.layers}) - sum(c.kind != "residual" for c in found)
    return Group(
        *(warning if other else ()),
        _changes(found, clean(first.name), clean(second.name)),
        *headlines,
        Text(f"{same} layers are the same in both", "dim"),
    )


def _changes(changes: Sequence[Change], first: str, second: str) -> RenderableType:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("layer", "", first, second):
        table.add_column(name, overflow="fold")
    table.add_column("because", overflow="fold", ratio=1)
    for each in changes:
        table.add_row(
            Text(clean(each.name)),
            Text(each.kind, "dim"),
            Text(each.first or "not there", _COLOURS.get(each.first, "")),
            Text(each.second or "not there", _COLOURS.get(each.second, "")),
            Text(clean(each.because[1] or each.because[0]), "dim"),
        )
    return table


def _ground(search: SearchRow | None) -> str:
    """What the figures stand on."""
    if search is None:
        return "no search was made on this runtime; own dB is each layer's alone in INT8"
    kind = "measured" if search.engine == "exact" else "estimated (fast engine)"
    times = "the runtime's profiler" if search.measured else "a roofline of the built plan"
    return (
        f"losses {kind} on {search.samples} samples, µs per batch from {times},"
        f" {plans(len(search.trials))} tried in {search.seconds:.0f} s"
    )


def _decibels(value: float | None) -> Text:
    return Text("–", "dim") if value is None else Text(f"{value:.1f}")


def _time(value: float | None) -> Text:
    return Text("–", "dim") if value is None else Text(significant(value))


def _ratio(outcome: Outcome) -> str:
    ratio = outcome.over_float
    return "–" if ratio is None else f"{ratio.value:.2f}× ({ratio.low:.2f} – {ratio.high:.2f})"


def _share(interval: Interval | None, unit: str) -> str:
    if interval is None:
        return "–"
    return f"{band_words((interval.value, interval.low, interval.high), 100, 2)} {unit}"
