"""`rtc compile`: the bundle and its exit code, and one line for each kind of bad input."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from rtc.compiler.bundle import bundles
from rtc.compiler.storage import files as durable


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


def test_a_model_that_guesses_fails_a_gate_that_a_recipe_can_lift(rtc, here, edit) -> None:
    edit("batch: 4", "batch: 4\nmeasure: {seconds: 0.1, threads: 1}")
    samples = dict(np.load(here / "samples.npz"))
    labels = np.random.default_rng(0).permutation(samples["y"])
    np.savez(here / "samples.npz", x=samples["x"], y=labels)
    done = rtc("compile", "recipe.yaml", "--target", "cpu")
    assert done.code == 8, done.err
    assert "chance" in done.err
    assert "FAIL: chance" in done.out
    assert "not shipped" in done.out
    edit("gates: {", "gates: {chance: null, ")
    done = rtc("compile", "recipe.yaml", "--target", "cpu")
    assert done.code == 0, done.err
    told = done.out.replace("\n", " ")
    assert told.index("PASS") < told.index("is no better than guessing") < told.index("bundle  ")


@pytest.mark.parametrize("offer", ["[int8]", "[fp32, int8, mix]"])
def test_a_candidate_without_int8_has_the_name_of_what_it_is(rtc, here, edit, offer) -> None:
    edit("batch: 4", "batch: 4\nmeasure: {seconds: 0.1, threads: 1}")
    edit("offer: [fp32]", f"search: null, offer: {offer}, pin: {{'*': fp32}}")
    done = rtc("compile", "recipe.yaml", "--target", "cpu", "--json", "--quiet")
    assert done.code == 0, done.err
    (result,) = json.loads(done.out)["results"]
    rows = {row["name"]: row for row in result["report"]["candidates"]}
    assert result["report"]["shipped"] in ("onnxruntime fp32", "openvino fp32")
    for asked in {"[int8]": ["int8"]}.get(offer, ["int8", "mix"]):
        row = rows[f"onnxruntime {asked}"]
        assert row["state"] == "left out"
        assert row["reason"] == "no layer runs in INT8 (pinned to fp32): it is onnxruntime fp32"


def test_a_target_that_cannot_be_built_leaves_the_others_be(rtc, here, edit) -> None:
    import onnx

    model = onnx.load(here / "model.onnx")
    gemm = model.graph.node[1]
    (answer,), gemm.output[:] = list(gemm.output), ["before"]
    echo = onnx.helper.make_node("SampleOp", ["before"], [answer], domain="com.microsoft")
    model.graph.node.append(echo)  # which ONNX Runtime alone has
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, here / "model.onnx")
    edit("batch: 4", "batch: 4\nmeasure: {seconds: 0.1, threads: 1}")
    done = rtc("compile", "recipe.yaml", "--target", "rtx4060ti", "--target", "cpu")
    assert done.code == 6, done.err
    assert "error: rtx4060ti: no candidate could be built" in done.err
    assert "tiny → cpu" in done.out
    assert (here / "build/tiny/cpu/latest").is_symlink()
    document = rtc("compile", "recipe.yaml", "-t", "rtx4060ti", "-t", "cpu", "--json").document
    assert [each["target"] for each in document["results"]] == ["cpu"]
    assert list(document["failed"]) == ["rtx4060ti"]


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
    assert "(asked: end-to-end ≤ 1e-09 ms at batch 4)" in done.err
    assert f"see {result['bundle']}/report.html" in done.err
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


def test_a_read_only_output_folder_is_found_before_the_work(rtc, here) -> None:
    if os.geteuid() == 0:
        read_only = "/proc"  # root may write everywhere else
    else:
        (here / "locked").mkdir(mode=0o500)
        read_only = "locked"
    done = rtc("compile", "recipe.yaml", "--out", f"{read_only}/build")
    assert done.code == 5
    assert "--out DIR" in done.err
    assert "✓" not in done.err


def test_a_full_disk_is_one_line_and_leaves_no_bundle(rtc, here, edit, monkeypatch) -> None:
    edit("batch: 4", "batch: 4\nmeasure: {seconds: 0.1, threads: 1}")

    def full(draft, files) -> None:
        if "report.html" in files:
            raise OSError(errno.ENOSPC, "No space left on device", str(draft))
        write_files(draft, files)

    write_files = durable.write_files
    monkeypatch.setattr(durable, "write_files", full)
    done = rtc("compile", "recipe.yaml", "--quiet", "--target", "cpu")
    assert done.code == 5
    assert "full" in done.err
    assert done.err.count("\n") == 1
    assert not list(here.glob("build/*/*/*"))


TORCH_SOURCE = """source:
  factory: rtc.recipes.models.lenet5:student
  weights: weights.safetensors"""


def test_a_pickled_checkpoint_is_refused_and_never_opened(rtc, here, edit) -> None:
    edit("source: {onnx: model.onnx}", TORCH_SOURCE)
    edit("passes: [fold-constants]", "passes: [export-onnx]")
    (here / "weights.safetensors").write_bytes(pickle.dumps(Bomb(here / "exploded")))
    done = rtc("compile", "recipe.yaml", "--quiet")
    assert done.code == 3, done.err
    assert "pickle" in done.err
    assert "safetensors" in done.err
    assert not (here / "exploded").exists()


class Bomb:
    """A pickle that makes a file where it is opened."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_target_whose_extra_is_missing_names_the_command_that_installs_it(start, here) -> None:
    hidden = here / "hide"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'tensorrt_rtx':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Hide())\n"
    )
    path = os.pathsep.join([str(hidden), os.environ.get("PYTHONPATH", "")])
    process = start("compile", "recipe.yaml", "--target", "rtx4060ti", PYTHONPATH=path)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 5, err
    assert "pip install 'rtc-compiler[tensorrt-rtx]'" in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_killed_at_any_moment_a_compile_resumes_to_the_same_bundle(start, here, edit) -> None:
    """SIGKILL after growing times, in one cache, until a compile comes through by itself."""
    edit("batch: 4", "batch: 4\nmeasure: {seconds: 0.5}")
    whole = start("compile", "recipe.yaml", "--out", "whole", "-q", RTC_CACHE=str(here / "other"))
    assert whole.communicate(timeout=300)[0]
    assert whole.returncode == 0
    kills, delay = 0, 0.5
    while True:
        process = start("compile", "recipe.yaml", "-t", "cpu", "-q")
        try:
            _, err = process.communicate(timeout=delay)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            delay *= 1.25
            for found in bundles.list_bundles(here / "build"):
                bundles.verify(found)
            continue
        assert process.returncode == 0, err
        break
    assert kills >= 5
    (resumed,) = bundles.list_bundles(here / "build")
    (uninterrupted,) = bundles.list_bundles(here / "whole")
    assert resumed.name == uninterrupted.name
    first, second = bundles.verify(resumed).files, bundles.verify(uninterrupted).files
    # Timings differ, and with them which runtime ships; all else is the same to the byte.
    assert first.keys() == second.keys()
    for name in sorted(first.keys() - {"layers.json", "report.json", "report.html"}):
        assert first[name] == second[name]
