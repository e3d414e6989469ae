from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.text import Text

from rtc.compiler.cli.progress import TerminalListener
from rtc.compiler.core.progress import Listener


def watched(*, terminal: bool) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=100,
        force_terminal=terminal,
        color_system="standard" if terminal else None,
    )
    with TerminalListener(console) as listener:
        heard: Listener = listener
        heard.started("distill", "")
        heard.progressed("distill", 3, 8, "98.2 % after 3 epochs")
        listener._live.refresh()
        heard.warned("one image is \x1b[31mcorrupt [bold]")
        heard.finished("distill", 17.93, "keeps the student [98.9 %]", cached=False)
        heard.started("build", "cpu")
        heard.finished("build", 3.4, "8 engines\x1b[2J " + "x" * 90, cached=True)
    return stream.getvalue()


def test_in_a_pipe_each_finished_stage_is_one_plain_line() -> None:
    lines = watched(terminal=False).splitlines()
    assert len(lines) == 3
    assert lines[0] == "! one image is �[31mcorrupt [bold]"
    assert " ".join(lines[1].split()) == "✓ distill 17.9 s keeps the student [98.9 %]"
    assert lines[2].startswith("✓ cpu: build ")
    assert "cached" in lines[2]
    assert lines[2].endswith("8 engines�[2J " + "x" * 90)


def test_on_a_terminal_the_running_stage_shows_and_goes() -> None:
    text = watched(terminal=True)
    assert "98.2 % after 3 epochs" in text
    assert "\x1b[33m! one image is �[31mcorrupt" in text
    assert "\x1b[2J" not in text
    assert text.index("\x1b[?25l") < text.rindex("\x1b[?25h"), "the cursor is given back"


def test_the_terminal_is_itself_again_after_an_error() -> None:
    stream = io.StringIO()
    listener = TerminalListener(Console(file=stream, force_terminal=True))
    with pytest.raises(ZeroDivisionError), listener:
        listener.progressed("train", 1 // 0, 1, "")
    assert "\x1b[?25h" in stream.getvalue(), "the cursor is given back"


def test_a_stage_of_several_that_are_done_again_says_each_reason_once() -> None:
    stream = io.StringIO()
    with TerminalListener(Console(file=stream, width=100)) as listener:
        listener.started("build", "cpu")
        listener.redone("build", ("code changed: net.py", "seed changed: 0 → 1"))
        listener.redone("build", ("seed changed: 0 → 1",))
        listener.finished("build", 1.0, "8 kernels", cached=False)
    assert (
        stream.getvalue()
        .rstrip()
        .endswith("8 kernels (again: code changed: net.py; seed changed: 0 → 1)")
    )


def test_a_terminal_breaks_lines_between_words() -> None:
    stream = io.StringIO()
    words = "onnxruntime is left out: onnxruntime/core has 12 kernels of 14, and the rest is float"
    with TerminalListener(Console(file=stream, width=80, force_terminal=True)) as listener:
        listener.finished("build", 1.0, words, cached=False)
        listener.warned(words)
        listener.failed("bench", words)
    plain = Text.from_ansi(stream.getvalue()).plain
    lines = [line for line in plain.splitlines() if line.strip()]
    assert max(map(len, lines)) <= 80
    assert {word for line in lines for word in line.split()} >= set(words.split())
    assert plain.count("\n    ") == 3
