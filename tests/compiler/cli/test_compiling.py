"""`rtc compile`: the bundle and its exit code, and one line for each kind of bad input."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest


@pytest.fixture
def here(project, tmp_path):
    """A copy of the project in the folder that commands run in."""
    for name in ("recipe.yaml", "model.onnx", "samples.npz"):
        shutil.copy(project / name, tmp_path)
    return tmp_path


@pytest.fixture
def edit(here):
    """Change the recipe's text."""

    def change(old: str, new: str) -> None:
        path = here / "recipe.yaml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return change


def test_a_failed_gate_is_exit_code_8_and_a_bundle_that_is_not_the_latest(rtc, here, edit) -> None:
    edit("latency_ms: 10000.0", "latency_ms: 1e-9")
    edit("batch: 4", "batch: 4\nmeasure: {seconds: 0.1, threads: 1}")
    done = rtc("compile", "recipe.yaml", "--target", "cpu", "--json", "--quiet")
    assert done.code == 8, done.err
    (result,) = json.loads(done.out)["results"]
    assert (result["target"], result["passed"], result["reused"]) == ("cpu", False, False)
    assert result["report"]["recipe"] == "tiny"
    assert done.err.startswith("error: a gate failed: cpu: latency_ms: ")
    assert done.err.count("\n") == 1
    bundle = here / result["bundle"]
    assert (bundle / "report.html").is_file()
    assert bundle.name.endswith(".failed")
    assert not (bundle.parent / "latest").exists()

    again = rtc("compile", "recipe.yaml")
    assert again.code == 8
    assert "tiny → cpu" in again.out
    assert "FAIL: latency_ms" in again.out
    assert bundle.name in again.out.replace("\n", "")


def labels(folder, value) -> None:
    samples = np.load(folder / "samples.npz")
    np.savez(folder / "samples.npz", x=samples["x"], y=value(samples["y"]))


@pytest.mark.parametrize(
    ("spoil", "arguments", "code", "line"),
    [
        (None, ["--target", "rtx4060"], 2, 'did you mean "rtx4060ti"?'),
        (None, ["--target", "h100"], 5, "target h100: rtc has no backend for full TensorRT"),
        (None, ["--cache", "model.onnx"], 5, "RTC_CACHE"),
        (lambda f: (f / "recipe.yaml").unlink(), [], 2, "there is no such file"),
        (lambda f: (f / "model.onnx").unlink(), [], 2, "source.onnx is not there"),
        (
            lambda f: (f / "model.onnx").write_bytes(b""),
            [],
            3,
            "model.onnx: the ONNX file is empty",
        ),
        (
            lambda f: (f / "model.onnx").write_bytes((f / "model.onnx").read_bytes()[:-9]),
            [],
            3,
            "not an ONNX model, or a truncated one",
        ),
        (lambda f: (f / "samples.npz").unlink(), [], 2, "data.npz is not there"),
        (lambda f: (f / "samples.npz").write_bytes(b"PK"), [], 4, "samples.npz"),
        (lambda f: labels(f, lambda y: y + 1), [], 4, "0 to 2"),
        (lambda f: labels(f, lambda y: y[:-1]), [], 4, "59"),
    ],
)
def test_bad_input_is_one_line_with_its_exit_code(
    spoil, arguments, code, line, *, rtc, here
) -> None:
    if spoil is not None:
        spoil(here)
    done = rtc("compile", "recipe.yaml", "--quiet", *arguments)
    assert done.code == code, done.err
    assert line in done.err
    assert done.err.count("\n") == 1
    assert not (here / "build").exists()


def test_an_empty_calibration_split_is_a_data_error(rtc, here, edit) -> None:
    edit("calibration: 0.3", "calibration: 0.0")
    done = rtc("compile", "recipe.yaml", "--quiet")
    assert done.code == 4
    assert "calibration" in done.err
