"""What every command has in common: help, exit codes, one line for each error, JSON, signals."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import pytest

from rtc.compiler.cli import main as entry
from rtc.compiler.cli import recipes
from rtc.compiler.core.errors import KINDS

COMMANDS = [
    "compile", "inspect", "run", "eval", "bench", "targets", "doctor",
    "recipe check", "recipe schema", "recipe new", "cache info", "cache clear",
]  # fmt: skip
HEAVY = {
    "numpy", "torch", "onnx", "onnxruntime", "openvino", "tensorrt_rtx", "pydantic", "rich", "yaml",
    "plotly", "jinja2",
}  # fmt: skip


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from rtc.compiler.cli.main import main; main(['--help'])\n"
        f"heavy = {HEAVY} & set(sys.modules); sys.exit(f'imported {{heavy}}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "compile" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_and_json(name: str, capsys) -> None:
    assert entry.main([*name.split(), "--help"]) == 0
    told = capsys.readouterr().out
    assert re.search(rf"Examples?:\n    rtc {name}", told)
    assert "--json" in told
    assert "--debug" in told


@pytest.mark.parametrize("arguments", [[], ["recipe"], ["cache"]])
def test_a_group_without_a_command_prints_its_help(arguments: list[str], capsys) -> None:
    assert entry.main(arguments) == 0
    assert "Commands:" in capsys.readouterr().out


def test_version(rtc) -> None:
    done = rtc("--version")
    assert done.code == 0
    assert done.out.startswith("rtc 0.")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["complie"], "'compile'"),
        (["recipe", "chek"], "'check'"),
        (["targets", "--jsno"], "--json"),
        (["compile"], "see rtc compile --help"),
        (["cache", "clear", "--older-than", "x"], "'--older-than'"),
        (["bench", "b", "--batch", "0"], "'--batch'"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    arguments: list[str], line: str, capsys
) -> None:
    assert entry.main(arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    assert line in told.err


def test_an_error_is_one_json_document_on_stdout(rtc) -> None:
    done = rtc("recipe", "check", "gone.yaml", "--json")
    assert done.code == 2
    assert done.document["error"] == "RecipeError"
    assert done.document["id"] == "missing-file"
    assert done.document["exit_code"] == 2
    assert done.err.count("\n") == 1


def test_a_wrong_command_line_is_json_too(rtc) -> None:
    done = rtc("complie", "--json")
    assert (done.code, done.document["id"]) == (2, "usage")


@pytest.mark.parametrize("kind", KINDS.values())
def test_every_kind_of_error_has_its_exit_code(kind, monkeypatch, capsys) -> None:
    def fail() -> None:
        raise kind("it went\nwrong", where="layer \x1b[31m1")

    monkeypatch.setattr(recipes, "starter", lambda *_: fail())
    assert entry.main(["recipe", "new"]) == kind.exit_code
    assert capsys.readouterr().err == "error: layer \\x1b[31m1: it went\\nwrong\n"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyError("x"), 70, "KeyError: 'x'; this is a bug of rtc"),
        (ModuleNotFoundError("no", name="torch"), 5, "pip install 'rtc-compiler[torch]'"),
        (ModuleNotFoundError("no", name="pandas.io"), 5, "install what has pandas in it"),
        (ModuleNotFoundError("no", name="rtc.compiler.x"), 70, "a bug of rtc"),
        (ModuleNotFoundError("no", name="openvino.x"), 5, "pip install 'rtc-compiler[openvino]'"),
        (OSError(28, "full", "/cache"), 5, "/cache: No space left on device"),
        (MemoryError(), 5, "out of memory"),
        (KeyboardInterrupt(), 130, "a rerun resumes"),
    ],
)
def test_any_other_exception_is_a_line_too(error, code, line, monkeypatch, capsys) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(recipes, "starter", fail)
    assert entry.main(["recipe", "new"]) == code
    told = capsys.readouterr().err
    assert line in told
    assert told.count("\n") == 1


def test_debug_shows_the_traceback(rtc) -> None:
    done = rtc("recipe", "check", "gone.yaml", "--debug")
    assert done.code == 2
    assert "Traceback" in done.err
    assert done.err.splitlines()[-1].startswith("error: gone.yaml")


SLOW = """
import sys, time
def dataset():
    sys.stderr.write("started\\n")
    sys.stderr.flush()
    time.sleep(100)
"""
RECIPE = """
{recipe: 1, name: slow, version: 1.0.0, source: {factory: "a:b"}, passes: [export-onnx],
 data: {dataset: "slow:dataset"}}
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_compile_in_order(number, code, start, tmp_path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    with start("compile", "recipe.yaml", "--quiet") as process:
        assert process.stderr.readline() == "started\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert out == ""
    assert err == "stopped: stages that were finished are kept, and a rerun resumes there\n"
    assert not (tmp_path / "build").exists()


def test_a_reader_that_leaves_ends_us_as_any_tool(start) -> None:
    with start("recipe", "schema") as process:
        process.stdout.close()
        process.wait(timeout=60)
        assert process.stderr.read() == ""
    assert process.returncode == -signal.SIGPIPE


def test_code_that_calls_sys_exit_is_no_success(rtc, tmp_path) -> None:
    (tmp_path / "leaver.py").write_text("import sys\ndef dataset(): sys.exit(0)\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("slow:", "leaver:"))
    done = rtc("compile", "recipe.yaml", "--quiet")
    assert done.code == 2
    assert "ended the program (seen sys.exit(0))" in done.err


def test_a_terminal_without_utf8_gets_escapes(start) -> None:
    with start("targets", PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C") as process:
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "rtx4060ti" in out


def test_the_module_runs_as_a_program(start) -> None:
    with start("complie") as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert (out, err.count("\n")) == ("", 1)
