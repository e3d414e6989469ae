"""The report as one HTML page that needs no network, no script and no font of its own.

Pictures are SVG drawn here rather than plotly's: plotly.js would make each page 4.9 MB and seconds
slow to open, blank without scripts and on paper, and deaf to the reader's dark mode.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtc.compiler.core.evidence import Evidence, Measured
from rtc.compiler.core.results import LatencyRow, Report
from rtc.compiler.report import charts, figures
from rtc.compiler.report.facts import facts
from rtc.compiler.report.search_charts import search_pictures, whole_front

if TYPE_CHECKING:
    import jinja2

_TAIL = ("p90", "p99")
_FOLDER = Path(__file__).parent


def render(report: Report) -> str:
    """The whole page. The same report gives the same text."""
    from markupsafe import Markup

    style = (_FOLDER / "page.css").read_text(encoding="utf-8")
    script = (_FOLDER / "page.js").read_text(encoding="utf-8")
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            report=report,
            policy=_policy(style, script),
            style=Markup(style),  # noqa: S704 - our own file, not a reader's text
            script=Markup(script),  # noqa: S704 - our own file, not a reader's text
            facts=facts(report),
            percentiles=_percentiles(report.latency),
            distributions=charts.distributions(report.latency),
            searches=search_pictures(report.searches, report.layers),
            front=whole_front(report.candidates, report.searches),
            training=charts.line_charts(report.curves),
            device=_flat(report.device),
            provenance=_flat(report.provenance),
            behind=_behind(report),
        )
    )


def _policy(style: str, script: str) -> str:
    """A content security policy under which only our own style and script, by hash, take effect.

    Markup that slipped through escaping would still neither run nor load anything.
    """

    def source(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; style-src {source(style)}; script-src {source(script)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: figures.clean(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= {
        "figure": figures.figure,
        "duration": figures.duration,
        "amount": figures.amount,
        "change": figures.change,
        "factor": figures.factor,
        "significant": figures.significant,
        "width": charts.WIDTH,
    }
    return environment


@dataclass(frozen=True)
class _Footnote:
    """What stands behind some figures of a table."""

    kind: str
    source: str


def _behind(report: Report) -> dict[str, list[_Footnote]]:
    """What stands behind each table's figures."""
    quality = [(r.top1, r.top5, r.loss, r.agreement) for r in report.accuracy]
    compared = [(row.latency, row.top1) for row in report.candidates]
    return {
        "accuracy": _footnotes(chain.from_iterable(quality)),
        "latency": _footnotes(row.evidence for row in report.latency),
        "candidates": _footnotes(chain.from_iterable(compared)),
    }


def _footnotes(evidence: Iterable[Evidence | None]) -> list[_Footnote]:
    """One footnote for each place or model, in order, with how many samples there were at each."""
    samples: dict[str, list[int]] = {}
    others: list[_Footnote] = []
    for item in evidence:
        if isinstance(item, Measured):
            samples.setdefault(item.where, []).append(item.samples)
        elif item is not None:
            others.append(_Footnote(figures.figure(item).kind, figures.figure(item).source))
    measured = [
        _Footnote("measured", f"{_range(counts)} samples, {where}")
        for where, counts in samples.items()
    ]
    return measured + list(dict.fromkeys(others))


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _percentiles(rows: Iterable[LatencyRow]) -> list[str]:
    """Names of the percentiles that the table shows: more would not fit beside the speed-up."""
    return [n for n in _TAIL if any(n in row.percentiles for row in rows)]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as (dotted name, text), sorted by name."""
    rows: list[tuple[str, str]] = []
    for name, value in sorted(tree.items()):
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)):
            rows.append((f"{prefix}{name}", ", ".join(str(item) for item in value)))
        else:
            rows.append((f"{prefix}{name}", str(value)))
    return rows
