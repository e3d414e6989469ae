from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
from rich.table import Table

from rtc.compiler.cli.answer import Answer, complain, draw, print_json, printable, printing
from rtc.compiler.core.errors import GateError


def test_one_document_or_text(capsys: pytest.CaptureFixture[str]) -> None:
    answer = Answer({"name": "ü", "of": [1]}, "for a person")
    assert answer.show(as_json=False) == 0
    assert capsys.readouterr().out == "for a person\n"
    assert answer.show(as_json=True) == 0
    assert json.loads(capsys.readouterr().out) == {"name": "ü", "of": [1]}


def test_a_failure_comes_after_the_result_and_is_the_exit_code(capsys) -> None:
    failure = GateError("top-1 is too low", seen="90 %")
    assert Answer({"passed": False}, "the table", failure).show(as_json=False) == 8
    said = capsys.readouterr()
    assert said.out == "the table\n"
    assert said.err == "error: top-1 is too low (seen 90 %)\n"


def test_a_nan_is_a_bug_and_no_document() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        print_json({"latency": float("nan")})


def test_text_cannot_steer_a_terminal(capsys) -> None:
    assert printable("a\x1b[31mb\nc\tü→") == "a\\x1b[31mb\\nc\\tü→"
    assert complain(GateError("bad\x1b[2Jname")) == 8
    assert "\x1b" not in capsys.readouterr().err


def test_names_are_drawn_as_they_are_and_paths_are_not_broken(capsys, monkeypatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    table = Table("layer", "path")
    table.add_row("[red]conv:smile:[/]", "build/" + "x" * 100)
    draw(table)
    out = capsys.readouterr().out
    assert "[red]conv:smile:[/]" in out
    assert "build/" + "x" * 100 in out


def test_a_reader_that_leaves_ends_us_only_while_we_print() -> None:
    before = signal.getsignal(signal.SIGPIPE)
    with printing():
        assert signal.getsignal(signal.SIGPIPE) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGPIPE) == before
    code = (
        "from rtc.compiler.cli.answer import say\n"
        "for i in range(100_000): say(str(i))\n"
        "raise SystemExit('never')"
    )
    shell = f'{sys.executable} -c "$CODE" | head -1; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", shell], env={"CODE": code}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["0", str(128 + signal.SIGPIPE)]
    assert done.stderr == ""
