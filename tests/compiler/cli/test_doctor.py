from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import pytest

from rtc.compiler.cli import doctor


def test_doctor_looks_at_everything(rtc) -> None:
    done = rtc("doctor", "--json")
    assert done.code == 0
    found = {finding["subject"]: finding for finding in done.document["findings"]}
    assert found["required packages"]["ok"]
    assert "onnxruntime" in found["required packages"]["found"]
    assert found["target cpu"]["ok"]
    assert found["runtime onnxruntime"]["found"] == version("onnxruntime")
    assert found["runtime openvino"]["ok"]
    assert {"python", "gpu", "cache", "current folder"} <= found.keys()


def test_doctor_draws_no_markup_and_shows_brackets_as_they_are(rtc, monkeypatch) -> None:
    finding = doctor.Finding("x", ok=False, found="a:smile: [red]b[/]", fix="pip install 'y[z]'")
    monkeypatch.setattr(doctor, "examine", lambda: (finding, doctor.Finding("target t", True, "")))
    lines = [line.split() for line in rtc("doctor").out.splitlines()]
    assert lines[:3] == [
        ["--", "x", "a:smile:", "[red]b[/]"],
        ["pip", "install", "'y[z]'"],
        ["ok", "target", "t"],
    ]


def test_a_source_tree_has_no_version_and_that_is_no_crash(rtc, monkeypatch) -> None:
    def unknown(distribution: str) -> str:
        raise PackageNotFoundError(distribution)

    monkeypatch.setattr(doctor, "version", unknown)
    assert "rtc of a source tree" in doctor._python().found
    assert rtc("--version").out == "rtc of a source tree (not installed)\n"


def test_doctor_names_the_command_that_installs_what_is_missing() -> None:
    finding = doctor._group("extra x", ("numpy", "not-a-distribution"), "pip install x")
    assert not finding.ok
    assert finding.found == "missing not-a-distribution"
    assert finding.fix == "pip install x"


def test_doctor_finds_a_cache_that_cannot_be_written_to(rtc, tmp_path) -> None:
    (tmp_path / "cache").write_text("a file in the folder's place")
    done = rtc("doctor", "--json")
    cache = next(f for f in done.document["findings"] if f["subject"] == "cache")
    assert not cache["ok"]
    assert "RTC_CACHE" in cache["fix"]


def test_doctor_ends_with_5_when_nothing_can_be_built(monkeypatch, capsys) -> None:
    from rtc.compiler.cli.main import main

    monkeypatch.setattr(doctor, "_targets", lambda: ())
    assert main(["doctor"]) == 5
    assert "no target can be built here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("script", "ok", "found"),
    [
        ("echo 'NVIDIA L4, 8.9, 23034 MiB, 550.1'", True, "NVIDIA L4, 8.9"),
        ("echo 'driver mismatch'; exit 9", False, "driver mismatch"),
    ],
)
def test_the_driver_is_asked_for_the_gpu(script, ok, found, monkeypatch, tmp_path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    finding = doctor._gpu()
    assert finding.ok is ok
    assert found in finding.found
