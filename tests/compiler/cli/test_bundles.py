"""inspect, run, eval and bench on a real engine."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest

from rtc.compiler.bundle import bundles
from rtc.compiler.measure import fidelity
from rtc.compiler.report import serial


@pytest.fixture
def samples(project):
    return np.load(project / "samples.npz")


@pytest.fixture
def in_bundle(rtc, built, tmp_path):
    """Run the bundle on an array."""

    def run(array, options):
        np.save(tmp_path / "x.npy", array)
        return rtc("run", built, "--input", "x.npy", *options)

    return run


def test_inspect_shows_the_report(rtc, built) -> None:
    done = rtc("inspect", built)
    assert done.code == 0, done.err
    assert "waits for its device" in done.out
    document = rtc("inspect", built, "--json").document
    assert document["manifest"]["engine"]["backend"] == "onnxruntime"
    assert document["report"]["recipe"] == "tiny"


def test_inspect_counts_what_an_onnx_file_holds(rtc, project) -> None:
    document = rtc("inspect", project / "model.onnx", "--json").document
    assert document["operators"] == {"Flatten": 1, "Gemm": 1}
    assert document["parameters"] == {"float": 51}
    assert document["opset"] == 17
    done = rtc("inspect", project / "model.onnx", "--layers")
    assert "flat, w, b" in done.out


@pytest.mark.parametrize(
    ("name", "code", "line"),
    [
        ("empty.onnx", 3, "empty"),
        ("text.onnx", 3, "not an ONNX model"),
        ("gone.onnx", 3, "no such file"),
        ("recipe.yaml", 2, "rtc recipe check"),
        ("nothing", 2, "no bundle here"),
    ],
)
def test_inspect_refuses(name, code, line, rtc, tmp_path) -> None:
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "text.onnx").write_bytes(b"no model")
    done = rtc("inspect", name)
    assert done.code == code
    assert line in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("command", ["inspect", "eval", "bench", "run"])
def test_a_changed_bundle_is_refused(command, rtc, built, project, tmp_path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(built.resolve() / "latest", copy)
    page = copy / "report.html"
    page.write_bytes(page.read_bytes().replace(b"waits", b"Waits", 1))
    more = ["--input", project / "samples.npz"] if command == "run" else []
    done = rtc(command, copy, *more)
    assert done.code == 7
    assert "report.html" in done.err


def test_run_gives_what_the_model_computes(rtc, built, project, samples, tmp_path) -> None:
    inputs, output = project / "samples.npz", tmp_path / "logits.npy"
    done = rtc("run", built, "--input", inputs, "--output", output, "--top", "1", "--json")
    assert done.code == 0, done.err
    logits = np.load(output)
    assert logits.shape == (60, 3)
    assert (logits.argmax(axis=1) == samples["y"]).all()
    assert [row[0]["class"] for row in done.document["top"]] == samples["y"].tolist()
    assert all(0 < row[0]["probability"] <= 1 for row in done.document["top"])


def test_run_prints_some_and_counts_the_rest(rtc, built, project) -> None:
    lines = rtc("run", built, "--input", project / "samples.npz").out.splitlines()
    assert len(lines) == 21
    assert "40 more" in lines[-1]


def test_run_takes_one_sample_without_a_batch_axis(in_bundle, samples) -> None:
    done = in_bundle(samples["x"][5], ["--json"])
    assert done.code == 0, done.err
    assert [row[0]["class"] for row in done.document["top"]] == [samples["y"][5]]


def test_run_goes_through_a_folder_by_name(rtc, built, samples, tmp_path) -> None:
    for index in (2, 0, 1):
        np.save(tmp_path / f"frame{index}.npy", samples["x"][index][None])
    document = rtc("run", built, "--input", tmp_path, "--json").document
    assert document["names"] == ["frame0.npy", "frame1.npy", "frame2.npy"]
    assert [row[0]["class"] for row in document["top"]] == samples["y"][:3].tolist()


def test_run_takes_pictures(rtc, of_pictures, tmp_path) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4), np.uint8)
    for index, each in enumerate(pixels):
        Image.fromarray(each).convert("RGB").save(tmp_path / f"{index}.png")
    np.save(tmp_path / "pixels.npy", pixels)
    by_array = rtc("run", of_pictures, "-i", tmp_path / "pixels.npy", "--json").document["top"]
    (tmp_path / "pixels.npy").unlink()
    assert rtc("run", of_pictures, "-i", tmp_path, "--json").document["top"] == by_array
    one = rtc("run", of_pictures, "-i", tmp_path / "1.png")
    assert one.out.startswith("1.png  ")
    assert rtc("run", of_pictures, "-i", tmp_path / "2.png").code == 4


def test_run_refuses_pictures_where_raw_samples_are_none(rtc, built, tmp_path) -> None:
    from PIL import Image

    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    done = rtc("run", built, "-i", tmp_path / "a.png")
    assert done.code == 4
    assert 'do not fit the layout "as-is"' in done.err
    assert "data.preprocess.layout" in done.err
    assert "compile again" in done.err


@pytest.mark.parametrize(
    ("array", "options", "line"),
    [
        (np.zeros((2, 3, 3), np.float32), [], "which become (n, 1, 4, 4)"),
        (np.zeros((2, 4, 4, 1), np.float32), [], "which become (n, 1, 4, 4)"),
        (np.zeros((2, 4, 4, 1), np.float32), [], "(data.preprocess.layout) and compiled in"),
        (np.zeros((2, 4, 4, 1), np.float32), ["--preprocessed"], "expected float32 (n, 1, 4, 4)"),
        (np.zeros((2, 1, 4, 4), np.float64), ["--preprocessed"], "seen float64"),
        (np.zeros((0, 1, 4, 4), np.float32), [], "not a batch of samples"),
        (np.zeros(3, np.float32), [], "not a batch of samples"),
        (np.full((1, 1, 4, 4), "a"), [], "do not fit the engine's preprocessing"),
    ],
)
def test_run_refuses_samples_that_do_not_fit(array, options, line, in_bundle) -> None:
    done = in_bundle(array, options)
    assert done.code == 4
    assert line in done.err


def test_run_refuses_an_output_that_is_not_finite(in_bundle) -> None:
    done = in_bundle(np.full((1, 1, 4, 4), np.nan, np.float32), [])
    assert done.code == 8
    assert "not finite" in done.err


def test_run_reads_no_pickle_and_no_broken_file(rtc, built, project, tmp_path) -> None:
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "broken.npz").write_bytes((project / "samples.npz").read_bytes()[:200])
    np.savez(tmp_path / "other.npz", z=np.zeros(2))
    for name in ("pickle.npy", "broken.npz", "other.npz", "gone.npy"):
        done = rtc("run", built, "--input", name)
        assert done.code == 4, name
        assert done.err.startswith(f"error: {name}: ")


def test_eval_measures_the_shipped_bytes_again(rtc, built, project) -> None:
    done = rtc("eval", built, "--recipe", project / "recipe.yaml", "--json")
    assert done.code == 0, done.err
    assert done.document["same_data"] is True
    engine = done.document["accuracy"][1]
    assert engine["subject"] == "shipped engine"
    assert (engine["top1"]["value"], engine["top1"]["samples"]) == (1.0, 42)


def test_eval_says_when_the_samples_are_others(rtc, built, project, samples, tmp_path) -> None:
    for name in ("recipe.yaml", "model.onnx"):
        shutil.copy(project / name, tmp_path)
    np.savez(tmp_path / "samples.npz", x=samples["x"], y=(samples["y"] + 1) % 3)
    done = rtc("eval", built, "--recipe", "recipe.yaml", "--json")
    assert done.code == 4
    assert json.loads(done.out)["same_data"] is False
    assert json.loads(done.out)["accuracy"][1]["top1"]["value"] == 0.0
    assert "not those that the bundle was compiled with" in done.err


DATASET = """
import numpy as np
from rtc.compiler.core.data import Dataset, Preprocess
def dataset():
    samples = np.load({path!r})
    return Dataset("ours", 3, "sha256:0", Preprocess(), lambda: (samples["x"], samples["y"]))
"""


def test_eval_finds_a_dataset_in_a_module_beside_the_recipe(
    rtc, built, project, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("sys.path", list(sys.path))
    shutil.copy(project / "model.onnx", tmp_path)
    (tmp_path / "ours.py").write_text(DATASET.format(path=str(project / "samples.npz")))
    text = (project / "recipe.yaml").read_text()
    text = text.replace("npz: samples.npz, classes: 3", 'dataset: "ours:dataset"')
    (tmp_path / "recipe.yaml").write_text(text)
    done = rtc("eval", built, "--recipe", "recipe.yaml", "--json")
    assert done.document["accuracy"][1]["top1"]["value"] == 1.0


def test_eval_asks_for_the_recipe_where_the_data_lies_beside_it(rtc, built) -> None:
    done = rtc("eval", built)
    assert done.code == 4
    assert "--recipe FILE" in done.err


def test_bench_completes_what_waited_and_leaves_the_bundle_alone(rtc, built, project) -> None:
    before = sorted(path.name for path in (built / "latest").iterdir())
    recipe = project / "recipe.yaml"
    done = rtc("bench", built, "--seconds", "0.1", "--recipe", recipe, "--json")
    assert done.code == 0, done.err
    written, page = done.document["written"]
    assert page.endswith("1.0.0+0123456789ab.bench.html")
    report = serial.from_json((built / "1.0.0+0123456789ab.bench.json").read_bytes(), where=written)
    cases = {(row.mode, row.batch): type(row.evidence).__name__ for row in report.latency}
    assert len(report.latency) == 4
    assert set(cases.values()) == {"Measured"}
    assert [gate.passed for gate in report.gates] == [True]
    assert sorted(path.name for path in (built / "latest").iterdir()) == before
    assert rtc("inspect", built).code == 0


def test_bench_judges_the_gates_that_waited(rtc, built, project, tmp_path) -> None:
    for name in ("samples.npz", "model.onnx"):
        shutil.copy(project / name, tmp_path)
    text = (project / "recipe.yaml").read_text().replace("10000.0", "1e-9")
    (tmp_path / "recipe.yaml").write_text(text)
    shutil.copytree(built, tmp_path / "cpu", symlinks=True)
    done = rtc("bench", "cpu", "--seconds", "0.1", "--recipe", "recipe.yaml", "--json")
    assert done.code == 8
    assert "latency_ms" in done.err
    assert done.document["report"]["passed"] is False


def test_bench_of_one_batch_leaves_the_others_waiting(rtc, built, project, tmp_path) -> None:
    shutil.copytree(built, tmp_path / "cpu", symlinks=True)
    recipe = project / "recipe.yaml"
    done = rtc("bench", "cpu", "--batch", "1", "--seconds", "0.1", "--recipe", recipe, "--json")
    kinds = [(row["batch"], row["evidence"]["kind"]) for row in done.document["report"]["latency"]]
    assert kinds.count((1, "measured")) == 2
    assert kinds.count((4, "pending")) == 2
    assert done.document["report"]["gates"][0]["passed"] is None


def test_bench_refuses_a_batch_that_the_engine_does_not_take(rtc, built, project) -> None:
    """Its error is told once: the step that failed is marked, and the last line says why."""
    done = rtc("bench", built, "--batch", "5", "--recipe", project / "recipe.yaml")
    assert done.code == 4
    assert done.err.count("expected 1 to 4") == 1
    assert "✗ bench\n" in done.err


@pytest.mark.parametrize("command", ["eval", "bench", "run"])
def test_an_engine_that_is_not_its_graph_is_refused(command, rtc, built, project, tmp_path) -> None:
    verified = bundles.verify(built)
    model = onnx.load_from_string(verified.files["graph.onnx"])
    for weights in model.graph.initializer:
        if weights.name == "w":
            values = onnx.numpy_helper.to_array(weights)[:, ::-1].copy()
            weights.CopyFrom(onnx.numpy_helper.from_array(values, "w"))
    known = fidelity.unpacked(verified.files[fidelity.FILE])
    turned = {name: values[:, ::-1] for name, values in known.outputs.items()}
    contents = {
        **verified.files,
        "graph.onnx": model.SerializeToString(),
        fidelity.FILE: fidelity.packed(replace(known, outputs=turned)),
    }
    wrong = bundles.publish(tmp_path, verified.manifest, contents)
    given = ("--input", project / "samples.npz") if command == "run" else ()
    options = given or ("--recipe", project / "recipe.yaml")
    done = rtc(command, wrong, *options, "--json")
    assert (done.code, done.document["id"]) == (6, "engine-differs"), done.err
    assert done.document["where"].startswith("batch ")
    assert "dB" in done.document["seen"]
