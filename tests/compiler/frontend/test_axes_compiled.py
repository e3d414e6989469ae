"""Whole compiles of models that fix their batch, or leave more than their batch open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import numpy_helper

from rtc.calibration.oracle import Oracle
from rtc.compiler import compile, load  # noqa: A004 - the verb of this tool
from rtc.compiler.bundle import bundles
from rtc.compiler.core.errors import DataError, ModelError
from rtc.compiler.core.evidence import Measured
from rtc.compiler.diagnose.remeasure import bench, evaluate, revisit
from rtc.compiler.frontend.float_model import source_files
from rtc.compiler.frontend.samples import splits_of
from rtc.compiler.publish.bundle_content import report_of
from rtc.compiler.recipe.schema import load_recipe
from rtc.compiler.storage.store import Store

BAKED = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[8,3,6,6] x) => (float[8,4] y) {
  [conv] c = Conv<pads=[1,1,1,1]>(x, k)
  [relu] a = Relu(c)
  [flat] f = Flatten(a)
  [token] t = Concat<axis=1>(f, ones)
  [fc] y = Gemm(t, w)
}
"""
ANY_SIZE = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,3,H,W] x) => (float[N,4] y) {
  [conv] c = Conv<pads=[1,1,1,1]>(x, k)
  [relu] a = Relu(c)
  [mean] p = GlobalAveragePool(a)
  [flat] f = Flatten(p)
  [fc] y = Gemm(f, w)
}
"""
RECIPE = {
    "recipe": 1,
    "name": "net",
    "version": "1.0.0",
    "source": {"onnx": "net.onnx"},
    "data": {
        "npz": "samples.npz",
        "classes": 4,
        "split": {"train": 0, "calibration": 0.3, "test": 0.65},
    },
    "passes": ["fold-constants"],
    "precision": {"offer": ["int8"], "search": None},
    "targets": ["cpu", "rtx4060ti"],
    "measure": {"seconds": 0.1, "threads": 1},
    "gates": {"top1_drop": None, "parity": None},
    "batch": 8,
}


def project(folder: Path, text: str, size: tuple[int, int], weights: int, **keys: object) -> Path:
    """A recipe with a model of random weights, and samples that it gets all right."""
    draw = np.random.default_rng(0)
    model = onnx.parser.parse_model(text)
    values = {
        "k": draw.normal(size=(16, 3, 3, 3)).astype(np.float32),
        "w": draw.normal(size=(weights, 4)).astype(np.float32),
        "ones": np.ones((8, 16), np.float32),
    }
    used = {name for node in model.graph.node for name in node.input}
    for name, value in values.items():
        if name in used:
            model.graph.initializer.append(numpy_helper.from_array(value, name))
    onnx.save(
        model,
        folder / "net.onnx",
        save_as_external_data=True,
        location="net.data",
        size_threshold=0,
    )
    x = draw.normal(size=(80, 3, *size)).astype(np.float32)
    with Oracle(onnx.load(folder / "net.onnx").SerializeToString()) as oracle:
        y = np.concatenate([oracle.run(x[i : i + 8])["y"] for i in range(0, 80, 8)]).argmax(axis=1)
    np.savez(folder / "samples.npz", x=x, y=y)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **keys}))
    return path


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fixed")
    path = project(folder, BAKED, (6, 6), 592)
    results = compile(path, out=folder / "build", store=Store(folder / "store"))
    assert all(result.passed for result in results)
    return folder


def samples_tested(folder: Path) -> int:
    """How many samples are tested on; they do not fill whole batches."""
    count = len(splits_of(load_recipe(folder / "recipe.yaml")).test)
    assert count % 8
    return count


@pytest.mark.slow
def test_a_fixed_batch_compiles_for_every_target(fixed: Path) -> None:
    for target in ("cpu", "rtx4060ti"):
        verified = bundles.verify(fixed / "build/net" / target)
        assert verified.manifest.engine.batches == (8, 8, 8)
        assert verified.manifest.signature.inputs[0].shape == (8, 3, 6, 6)
        report = report_of(verified)
        assert {row.batch for row in report.latency} == {8}
        top1 = report.accuracy_of("float model").top1
        assert isinstance(top1, Measured)
        assert (top1.value, top1.samples) == (1.0, samples_tested(fixed))
        assert any("batch is fixed to 8" in doubt for doubt in report.doubts)
        assert {row.state for row in report.candidates} <= {"shipped", "slower"}


@pytest.mark.slow
def test_an_engine_of_a_fixed_batch_answers_fewer_samples(fixed: Path) -> None:
    x = np.load(fixed / "samples.npz")["x"]
    with Oracle(onnx.load(fixed / "net.onnx").SerializeToString()) as oracle:
        wanted = oracle.run(x[:8])["y"]
    with load(fixed / "build/net/cpu") as engine:
        for count in (1, 5, 8):
            got = engine(x[:count])
            assert got.shape == (count, 4)
            assert np.abs(got - wanted[:count]).max() < 0.05 * np.abs(wanted).max()
        with pytest.raises(DataError, match="at most 8"):
            engine(x[:9])


@pytest.mark.slow
def test_a_bundle_of_a_fixed_batch_is_evaluated_and_timed_again(fixed: Path) -> None:
    again = revisit(fixed / "build/net/cpu", fixed / "recipe.yaml")
    assert [row.top1.samples for row in evaluate(again)] == [samples_tested(fixed)] * 2
    report = bench(again, (), 0.1)
    assert {row.batch for row in report.latency} == {8}


@pytest.mark.slow
def test_another_batch_is_refused_with_the_line_to_change(fixed: Path, tmp_path: Path) -> None:
    path = fixed / "other.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "batch": 4}))
    with pytest.raises(ModelError, match="set batch: 8 in the recipe"):
        compile(path, out=tmp_path, store=Store(fixed / "store"))


@pytest.mark.slow
def test_too_few_samples_for_a_batch_are_said(fixed: Path, tmp_path: Path) -> None:
    data = {**RECIPE["data"], "split": {"train": 0, "calibration": 0.05, "test": 0.7}}
    path = fixed / "few.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "data": data}))
    with pytest.raises(DataError, match="do not fill a batch"):
        compile(path, out=tmp_path, store=Store(fixed / "store"))


@pytest.mark.slow
def test_height_and_width_are_the_samples_own_on_every_target(tmp_path: Path) -> None:
    path = project(tmp_path, ANY_SIZE, (10, 6), 16, batch=4)
    results = compile(path, out=tmp_path / "build", store=Store(tmp_path / "store"))
    assert all(result.passed for result in results)
    for target in ("cpu", "rtx4060ti"):
        verified = bundles.verify(tmp_path / "build/net" / target)
        assert verified.manifest.signature.inputs[0].shape == ("N", 3, 10, 6)
        assert not [row for row in report_of(verified).candidates if row.state == "failed"]
    with load(tmp_path / "build/net/cpu") as engine:
        assert engine(np.zeros((2, 3, 10, 6), np.float32)).shape == (2, 4)
        with pytest.raises(DataError, match="10, 6"):
            engine(np.zeros((2, 3, 8, 8), np.float32))


def test_what_names_a_bundle_follows_the_weights_beside_the_model(tmp_path: Path) -> None:
    recipe = load_recipe(project(tmp_path, ANY_SIZE, (10, 6), 16))
    before = source_files(recipe)
    content = bytearray((tmp_path / "net.data").read_bytes())
    content[0] ^= 1
    (tmp_path / "net.data").write_bytes(content)
    after = source_files(recipe)
    assert [name for name in before if before[name] != after[name]] == ["net.data"]
