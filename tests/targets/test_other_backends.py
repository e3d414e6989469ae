"""Backends of other packages: found by entry point or by their class, built with, and refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from check_pass import parse

import rtc.compiler
from rtc.compiler import pipeline
from rtc.compiler.core.errors import MachineError, RecipeError
from rtc.compiler.recipe.source_code import code_behind
from rtc.compiler.storage.store import Store
from rtc.targets import loader

PACKAGE = Path(__file__).parents[1] / "helpers" / "example_package"
RECIPE = """\
recipe: 1
name: small
version: 1.0.0
source: {onnx: model.onnx}
data: {npz: samples.npz, classes: 3, split: {train: 0, calibration: 0.3, test: 0.5}}
precision: {search: null}
targets: [board.yaml]
measure: {seconds: 0.1, threads: 1}
gates: {chance: null}
"""


@pytest.fixture
def package(monkeypatch):
    monkeypatch.syspath_prepend(str(PACKAGE))
    yield
    sys.modules.pop("example_runtime", None)


def board(*backends: str) -> str:
    return f"name: board\nvendor: me\nkind: cpu\nbackends: {json.dumps(backends)}\n"


def written(folder: Path, profile: str, recipe: str = RECIPE) -> Path:
    random = np.random.default_rng(0)
    w = random.standard_normal((6, 3)).astype(np.float32)
    unit = parse("g (float[N,6] x) => (float[N,3] y) {\n[only] y = MatMul(x, w)\n}", w=w)
    (folder / "model.onnx").write_bytes(unit.onnx.proto)
    x = random.standard_normal((200, 6)).astype(np.float32)
    np.savez(folder / "samples.npz", x=x, y=(x @ w).argmax(axis=1))
    (folder / "board.yaml").write_text(profile)
    path = folder / "recipe.yaml"
    path.write_text(recipe)
    return path


@pytest.mark.parametrize("name", ["plain", "example_runtime:Plain"])
def test_a_recipe_compiles_with_another_packages_runtime(name, package, tmp_path):
    path = written(tmp_path, board(name))
    (made,) = pipeline.compile(path, out=tmp_path / "build", store=Store(tmp_path / "store"))
    assert made.passed
    assert {row.backend for row in made.report.candidates} == {name}
    (identity,) = made.report.provenance["backends"].items()
    assert identity[0] == name
    assert identity[1]["version"] == made.report.provenance["software"][name] == "1.2.3"
    assert "example_runtime.py" in identity[1]["code"]
    x = np.zeros((1, 6), np.float32)
    with rtc.compiler.load(made.bundle) as engine:
        assert engine.runtime == "plain 1.2.3"
        np.testing.assert_array_equal(engine(x), np.zeros((1, 3), np.float32))


def test_no_module_is_imported_because_a_bundle_names_it(package, tmp_path):
    path = written(tmp_path, board("example_runtime:Plain"))
    (made,) = pipeline.compile(path, out=tmp_path / "build", store=Store(tmp_path / "store"))
    module = sys.modules.pop("example_runtime")
    try:
        with pytest.raises(MachineError, match="which nobody has imported") as error:
            rtc.compiler.load(made.bundle)
        assert error.value.id == "not-imported"
        assert "example_runtime" not in sys.modules
    finally:
        sys.modules["example_runtime"] = module
    rtc.compiler.load(made.bundle).close()


def test_a_bundle_is_another_ones_where_the_runtimes_code_is_another(monkeypatch, tmp_path):
    module = tmp_path / "mine.py"
    text = (PACKAGE / "example_runtime.py").read_text()
    module.write_text(text.replace('version("example-runtime")', '"7"'))
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = written(tmp_path, board("mine:Plain"))

    def compiled() -> pipeline.CompileResult:
        (made,) = pipeline.compile(path, out=tmp_path / "build", store=Store(tmp_path / "store"))
        return made

    assert not compiled().reused
    assert compiled().reused
    module.write_text(module.read_text() + "\nMORE = 1\n")
    assert not compiled().reused


def test_the_code_of_others_counts_and_rtcs_own_is_counted_elsewhere(package):
    found = loader.backend("plain")
    assert "example_runtime.py" in code_behind([type(found)])
    assert code_behind([type(loader.backend("onnxruntime"))]) == {}


def test_rtcs_own_are_registered_as_others_are():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    section = text.partition('[project.entry-points."rtc.backends"]\n')[2].partition("\n[")[0]
    assert dict(re.findall(r'^(\w+) = "(.*)"$', section, re.MULTILINE)) == loader.BACKENDS.own


def test_a_source_tree_without_metadata_finds_rtcs_own():
    program = (
        "import importlib.metadata as m\n"
        "m.entry_points = lambda **_: ()\n"
        "from rtc.targets import loader\n"
        "print(*loader.BACKENDS.known())"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split() == list(loader.BACKENDS.own), done.stderr


def test_the_nearest_registered_name_is_told(package):
    with pytest.raises(RecipeError, match="there is no backend 'plane'") as error:
        loader.backend("plane")
    assert error.value.fix == 'did you mean "plain"?'


def test_two_packages_cannot_register_one_name_for_two_classes(monkeypatch, tmp_path):
    info = tmp_path / "other-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[rtc.backends]\nopenvino = other:Vino\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RecipeError, match="two classes are registered as the backend 'openvino'"):
        loader.backend("onnxruntime")


WRONG = """\
from example_runtime import Plain
from rtc.compiler.core.target import Backend

number = 3

class Half(Backend):
    extra, engine_file = "", "engine"

class Nameless(Plain):
    engine_file = None

class Asking(Plain):
    def __init__(self, how): ...
"""


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nowhere:Plain", "no module named nowhere"),
        ("wrong:Plan", """wrong has no 'Plan'; did you mean "Plain"?"""),
        ("wrong:number", "wrong:number is not a backend (seen 3"),
        ("pathlib:Path", "is not a backend (seen the class Path"),
        ("wrong:Half", "lacks methods (seen no available, build, load, meets"),
        ("wrong:Nameless", "does not say its engine_file"),
        ("wrong:Asking", "cannot be made (seen "),
        ("broken:Plain", "cannot be imported (seen SyntaxError"),
    ],
)
def test_what_is_no_backend_is_refused_before_any_work(name, told, package, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "wrong.py").write_text(WRONG)
    (tmp_path / "broken.py").write_text("def")
    path = written(tmp_path, board(name))
    with pytest.raises(RecipeError) as error:
        pipeline.compile(path, out=tmp_path / "build", store=Store(tmp_path / "store"))
    assert told in str(error.value)
