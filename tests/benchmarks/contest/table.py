"""The comparison on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from contest.entries import RTC
from contest.running import Row
from contest.verdict import Verdict
from rtc.compiler.core.intervals import Interval
from rtc.compiler.report.figures import amount, clean, duration, interval, significant

_COLUMNS = ("top-1", "drop, points", "agreement", "latency, b1", "× eager", "search", "peak")


def results(model: str, rows: Sequence[Row]) -> Group:
    """Every peer on one model, the fastest first; then why those that failed did."""
    table = Table(title=model, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("peer", no_wrap=True)
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for row in sorted(rows, key=lambda row: row.ms.value if row.ms else float("inf")):
        if not row.failure:
            style = "bold" if row.peer == RTC else ""
            table.add_row(Text(_name(row)), *map(Text, _cells(row)), style=style)
    failed = (f"{row.peer}: {clean(row.failure)}" for row in rows if row.failure)
    return Group(table, *(Text(line, "red") for line in failed))


def _name(row: Row) -> str:
    own = row.peer == RTC
    threads = row.facts["threads"] if own else row.threads
    told = [*([row.facts["shipped"]] if own else []), *([_count(threads)] if threads else [])]
    return f"{row.peer} ({', '.join(told)})" if told else row.peer


def _count(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"


def _cells(row: Row) -> list[str]:
    return [
        _shown(row.top1, lambda it: _fraction(it.value)),
        _shown(
            row.drop, lambda it: f"{_points(it.value)} ({_points(it.low)} … {_points(it.high)})"
        ),
        _shown(row.agreement, lambda it: _fraction(it.value)),
        _shown(row.ms, lambda it: f"{amount(it.value, 'ms')} ({interval(it.low, it.high, 'ms')})"),
        _shown(row.over_eager, lambda it: significant(it.value)),
        "–" if row.search_s is None else duration(row.search_s),
        "–" if row.peak_mib is None else f"{row.peak_mib:,.0f} MiB",
    ]


def summary(found: Sequence[Verdict]) -> Table:
    """Each target and whether it holds."""
    table = Table(title="targets", title_justify="left", box=box.SIMPLE_HEAD, show_header=False)
    for each in found:
        mark = Text("✓", "green") if each.holds else Text("✗", "bold red")
        table.add_row(mark, Text(each.target), Text(clean(each.found)))
    return table


def _shown(value: Interval | None, write: Callable[[Interval], str]) -> str:
    return "–" if value is None else write(value)


def _fraction(value: float) -> str:
    return amount(value, "fraction")


def _points(value: float) -> str:
    return f"{100 * value:+.2f}"
