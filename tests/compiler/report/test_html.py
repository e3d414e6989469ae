from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rtc.compiler.core.evidence import Measured
from rtc.compiler.core.results import CandidateRow, Curve, LatencyRow, Report
from rtc.compiler.core.verdicts import CandidateState, LatencyMode, LayerVerdict
from rtc.compiler.report.figures import factor
from rtc.compiler.report.html import render
from rtc.compiler.report.search_charts import search_pictures, whole_front
from rtc.compiler.report.serial import from_json, to_json

ATTACK = "</td></style><script>document.title='taken'</script><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Tags, attributes and the text of a page, as a browser would take them apart."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in {"meta", "path", "circle", "polyline", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def table_rows(html: str) -> list[str]:
    return re.findall(r"<tr.*?</tr>", html, re.DOTALL)


@pytest.fixture(params=["cpu_report", "rtx_report", "failed_report"])
def report(request: pytest.FixtureRequest) -> Report:
    found: Report = request.getfixturevalue(request.param)
    return found


def test_the_page_is_well_formed(report: Report) -> None:
    page = Page(render(report))
    assert page.open == []
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert all(v in ids for name, v in page.attributes if name == "aria-labelledby")


def test_the_page_loads_nothing_and_runs_only_its_own_script(report: Report) -> None:
    html = render(report)
    page = Page(html)
    loads = {"src", "href", "srcset", "data", "action", "poster", "xlink:href", "style"}
    assert [pair for pair in page.attributes if pair[0] in loads] == []
    assert [pair for pair in page.attributes if pair[0].startswith("on")] == []
    assert not {"link", "iframe", "object", "embed", "base", "img"} & set(page.tags)
    assert page.tags.count("script") == page.tags.count("style") == 1
    assert not re.search(r"https?://|@import|url\(", html)
    assert any("default-src 'none'" in (v or "") for n, v in page.attributes if n == "content")
    assert "unsafe-inline" not in html


def test_the_same_report_gives_the_same_page_also_after_json(report: Report) -> None:
    assert render(report) == render(report) == render(from_json(to_json(report)))


def test_a_page_stays_light(cpu_report: Report) -> None:
    assert len(render(cpu_report).encode()) < 150_000


def test_the_verdict_comes_first(cpu_report: Report, failed_report: Report) -> None:
    for report, verdict in ((cpu_report, "Pass"), (failed_report, "Fail")):
        texts = [text for text in Page(render(report)).texts if text]
        assert texts.index(verdict) < texts.index(report.headline) < texts.index("Gates")
        order = ["Gates", "Accuracy", "Latency", "Candidates", "Training", "Certificates"]
        assert [texts.index(name) for name in order] == sorted(texts.index(n) for n in order)


def test_every_figure_of_a_table_carries_its_kind(rtx_report: Report) -> None:
    rows = table_rows(render(rtx_report))
    latency = [row for row in rows if 'data-label="Median"' in row]
    assert len(latency) == len(rtx_report.latency)
    for row, kind in zip(latency, ["estimated", "pending"] * 2, strict=True):
        assert f">{kind}</span>" in row
        assert ">measured</span>" not in row
    accuracy = [row for row in rows if 'data-label="Top-5"' in row]
    assert [row.count(">measured</span>") for row in accuracy] == [3, 3, 4]


def test_an_estimate_is_never_shown_bare(rtx_report: Report) -> None:
    html = render(rtx_report)
    assert "29.8 µs" in html
    assert not re.search(r"(?<!≈ )29\.8 µs", html)
    assert not re.search(r"(?<!≈ )2,150,000", html)


def test_a_speedup_shows_its_interval(cpu_report: Report) -> None:
    row = next(row for row in cpu_report.latency if row.speedup_interval)
    assert row.speedup is not None
    shown = factor(row.speedup, row.speedup_interval)
    assert re.fullmatch(r"3\.\d+× \(2\.\d+ – 3\.\d+\)", shown)
    assert shown in render(cpu_report)


def test_a_changed_layer_stands_out(cpu_report: Report) -> None:
    alarms = [row for row in table_rows(render(cpu_report)) if 'class="alarm"' in row]
    assert len(alarms) == 1
    assert "/act2/Gelu" in alarms[0]


def test_a_layer_of_unknown_precision_stands_out_and_is_counted(cpu_report: Report) -> None:
    silent = replace(cpu_report.layers[3], built="", verdict=LayerVerdict.UNKNOWN)
    html = render(replace(cpu_report, layers=(silent,)))
    assert len([row for row in table_rows(html) if 'class="alarm"' in row]) == 1
    assert "0 of 1 changed, 1 unknown" in html


def test_a_search_is_drawn_and_told(cpu_report: Report) -> None:
    page = render(cpu_report)
    assert "openvino mix: what each layer alone loses in INT8" in page
    assert "/fc2/Gemm: 29.9 dB (28.4 – 31.4), planned int8" in page
    assert "assignment 4: 1.60× float, 99.60% agree" in page
    assert page.count('class="point ') == 3 + 3
    assert "Residual ledger" in page
    assert "a convolution is INT8 only if its output is quantised" in page


def test_the_front_holds_what_nothing_beats(cpu_report: Report) -> None:
    (pictures,) = search_pictures(cpu_report.searches, cpu_report.layers)
    assert pictures.front is not None
    assert len(pictures.front.line) == 3  # faster and faster, further and further from float
    slow = replace(cpu_report.searches[0].trials[0], name="worse", agreement=(0.95, 0.94, 0.96))
    searches = [replace(s, trials=(*s.trials, slow)) for s in cpu_report.searches]
    (pictures,) = search_pictures(searches, cpu_report.layers)
    assert len(pictures.front.dots) == 4
    assert len(pictures.front.line) == 3


def test_one_front_holds_every_candidate_and_every_plan(cpu_report: Report) -> None:
    def row(name: str, ms: float, agreement: float, state: str) -> CandidateRow:
        backend, variant = name.split()
        seen = Measured(agreement, "fraction", "here", 1000, agreement - 0.01, agreement)
        time = Measured(ms, "ms", "here", 100)
        return CandidateRow(name, backend, variant, time, None, state, agreement=seen)

    rows = (
        row("openvino int8", 1.0, 0.97, CandidateState.REFUSED),
        row("openvino mix", 1.2, 0.996, CandidateState.SHIPPED),
        row("openvino fp32", 2.0, 1.0, CandidateState.SLOWER),
        row("onnxruntime fp32", 3.0, 1.0, CandidateState.SLOWER),
        replace(row("onnxruntime half", 1.0, 1.0, CandidateState.LEFT_OUT), latency=None),
    )
    front = whole_front(rows, cpu_report.searches)
    assert front is not None
    kinds = Counter(dot.kind for dot in front.dots)
    refused = sum(trial.state == "refused" for trial in cpu_report.searches[0].trials)
    assert kinds.pop("tried refused", 0) == refused
    assert kinds == {"tried": 3 - refused, "refused": 1, "best": 1, "passed": 2}
    best = next(t for t in cpu_report.searches[0].trials if t.state == "best")
    for trial in cpu_report.searches[0].trials:
        title = next(dot.title for dot in front.dots if f", {trial.name}:" in dot.title)
        own = 1.2 * best.over_float[0] / trial.over_float[0]  # 1.2 ms is the best's candidate
        assert f"{own:#.3g} ms" in title
    by_title = {dot.title.partition(",")[0]: (dot.x, dot.y) for dot in front.dots}
    on_front = ("openvino int8", "openvino mix", "openvino fp32")
    assert front.line == tuple(by_title[name] for name in on_front)
    assert "and every plan that was tried" in render(replace(cpu_report, candidates=rows))
    assert whole_front(rows[:1], ()) is None
    alone = replace(cpu_report.searches[0], trials=cpu_report.searches[0].trials[:1])
    unsearched = whole_front(rows, (alone,))
    assert unsearched is not None
    assert len(unsearched.dots) == 4


def test_markup_in_names_is_text(cpu_report: Report) -> None:
    layer = replace(cpu_report.layers[0], name=ATTACK, reason=ATTACK, verdict=ATTACK)
    gate = replace(cpu_report.gates[0], name=ATTACK, found=ATTACK)
    hostile = replace(
        cpu_report,
        recipe=ATTACK, headline=ATTACK, shipped=ATTACK, layers=(layer,), gates=(gate,),
        notes=(ATTACK,), doubts=(ATTACK,), provenance={ATTACK: {ATTACK: [ATTACK]}},
        device={ATTACK: ATTACK},
        curves=(Curve(ATTACK, ATTACK, (0.5,), (1.0,), 1.0),),
        latency=(replace(cpu_report.latency[0], subject=ATTACK, mode=ATTACK),),
    )  # fmt: skip
    page = Page(render(hostile))
    assert page.open == []
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert ATTACK in page.texts


def test_doubts_stand_under_the_headline(cpu_report: Report) -> None:
    html = render(replace(cpu_report, doubts=("the model guesses",)))
    assert html.index("<h1>") < html.index("the model guesses") < html.index("<main")


def test_nothing_ships_where_a_gate_failed(cpu_report: Report, failed_report: Report) -> None:
    texts = Page(render(failed_report)).texts
    assert "Not shipped" in texts
    assert not [text for text in texts if text in ("Ships", "ships", "shipped", "shipped engine")]
    assert "Ships" in Page(render(cpu_report)).texts


def test_top5_is_a_column_where_a_model_has_it(cpu_report: Report) -> None:
    assert "Top-5" in Page(render(cpu_report)).texts
    few = tuple(replace(row, top5=None) for row in cpu_report.accuracy)
    assert "Top-5" not in Page(render(replace(cpu_report, accuracy=few))).texts


def test_control_characters_do_not_reach_the_page(cpu_report: Report) -> None:
    layer = replace(cpu_report.layers[0], name="a\x1b[2Jb\u202ec\ud800")
    html = render(replace(cpu_report, layers=(layer,)))
    assert "a�[2Jb�c�" in html
    html.encode()


def test_a_report_with_nothing_in_it_is_still_a_page(cpu_report: Report) -> None:
    empty = replace(
        cpu_report, gates=(), accuracy=(), latency=(), candidates=(), layers=(), certificates=(),
        stages=(), curves=(), searches=(), notes=(), provenance={}, device={}, engine_bytes=None,
    )  # fmt: skip
    page = Page(render(empty))
    assert page.open == []
    assert "table" not in page.tags


def test_a_single_sample_and_a_single_epoch_can_be_drawn(cpu_report: Report) -> None:
    row = LatencyRow(
        "one", LatencyMode.FORWARD, 1, Measured(1.0, "ms", "host", 1), samples_ms=(1.0,)
    )
    once = replace(
        cpu_report, latency=(row,), curves=(Curve("only", "train", (0.5,), (), 1.0),), searches=()
    )  # fmt: skip
    html = render(once)
    assert html.count("<figure>") == 2
    assert not re.search(r"\b(nan|inf)\b", html)


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the page with")
def test_a_browser_runs_our_script_and_not_a_layers(cpu_report: Report, tmp_path: Path) -> None:
    layer = replace(cpu_report.layers[0], name=ATTACK)
    page = tmp_path / "report.html"
    # Written past the escaping as well: the policy alone must then keep the script from running.
    planted = render(replace(cpu_report, layers=(layer,))).replace(
        "<main", "<script>document.title='planted'</script><main", 1
    )
    page.write_text(planted, encoding="utf-8")
    assert CHROMIUM is not None
    dom = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--disable-component-update",
         f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    assert f"<title>{cpu_report.recipe} on cpu: pass</title>" in dom
    assert 'type="search"' in dom, "our own script adds the filter"
