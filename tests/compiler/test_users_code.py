"""Code and data of the user's: what a name holds, and what is said of faults in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from compiled_recipes import OFFER, RECIPE, SEARCH, Watcher

from rtc.compiler import CompileResult, compile  # noqa: A004 - the verb of this tool
from rtc.compiler.bundle import bundles
from rtc.compiler.core.errors import (
    DataError,
    RecipeError,
    RtcError,
)
from rtc.compiler.core.progress import Nobody
from rtc.compiler.storage.store import Store

NPZ = {
    "source": {"factory": "net_beside:make"},
    "data": {"dataset": "data_beside:make", "options": {"scale": 1.0}},
    "passes": ["export-onnx"],
    "precision": {"offer": ["fp32"]},
    "measure": {"seconds": 0.1},
}
NET = """
from torch import nn
def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU())
"""
DATA = """
import numpy as np
from rtc.compiler.core.data import Dataset, Preprocess
SCALE = 1.0
def make(scale):
    def load():
        x = np.random.default_rng(0).standard_normal((90, 1, 2, 2)).astype(np.float32)
        return x * np.float32(SCALE * scale), np.arange(90) % 3
    return Dataset("mine", 3, "sha256:always-the-same", Preprocess(), load)
"""


def ranges(result: CompileResult) -> Any:
    return json.loads(bundles.verify(result.bundle).files["calibration.json"])


def test_code_beside_a_recipe_counts_and_never_another_recipes(tmp_path: Path) -> None:
    def project(name: str, net: str = NET, data: str = DATA, **changes: object) -> CompileResult:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "net_beside.py").write_text(net)
        (folder / "data_beside.py").write_text(data)
        document = {**yaml.safe_load(RECIPE.replace(SEARCH, OFFER)), **NPZ, **changes}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(document))
        store = Store(tmp_path / "store")
        (result,) = compile(folder / "recipe.yaml", out=tmp_path / f"build-{name}", store=store)
        return result

    first = project("one")
    scaled = project("two", data=DATA.replace("SCALE = 1.0", "SCALE = 3.0"))
    assert ranges(scaled) != ranges(first)
    # What a data set says of itself need not follow its samples: what was read names the bundle.
    assert scaled.bundle.name != first.bundle.name
    other = project("three", net=NET.replace("nn.ReLU()", "nn.Tanh()"))
    ops = [row.op for row in other.report.layers]
    assert "Tanh" in ops
    assert "Relu" not in ops


DIGITS = """
import numpy as np
from rtc.compiler.core.data import Dataset, Preprocess
from helper_beside import CLASSES
def make():
    def load():
        x = np.random.default_rng(0).integers(0, 256, (90, 28, 28)).astype(np.uint8)
        return np.minimum(x, int(np.loadtxt({table!r}))), np.arange(90) % CLASSES
    preprocess = Preprocess(1 / 255, layout="hw")
    return Dataset("mine", CLASSES, "sha256:always-the-same", preprocess, load)
"""


def test_a_name_holds_what_was_read_and_nothing_else(
    recipe: Callable[..., Path], tmp_path: Path
) -> None:
    table = tmp_path / "brightest.txt"
    (tmp_path / "data_beside.py").write_text(DIGITS.format(table=str(table)))
    (tmp_path / "helper_beside.py").write_text("CLASSES = 3")
    (tmp_path / "ort.yaml").write_text(
        "{name: ort, vendor: any, kind: cpu, backends: [onnxruntime], notes: '', source: here}"
    )
    path = recipe(
        data={"dataset": "data_beside:make"},
        precision={"offer": ["fp32"]},
        targets=["ort.yaml"],
        measure={"seconds": 0.1, "threads": 1},
        gates={"chance": None},  # the labels are no digits
    )

    def run(fresh: bool = False) -> tuple[CompileResult, Watcher]:
        watcher, store = Watcher(), Store(tmp_path / "store")
        (result,) = compile(
            path, out=tmp_path / "build", store=store, listener=watcher, fresh=fresh
        )
        return result, watcher

    table.write_text("255")
    first, watcher = run()
    assert watcher.cached == []
    held = bundles.verify(first.bundle)
    (tmp_path / "notes.py").write_text("nothing imports it")
    assert run()[0].reused

    table.write_text("51")
    darker, watcher = run()
    assert darker.bundle.name != first.bundle.name
    assert ranges(darker)["input"]["seen_high"] == pytest.approx(0.2)
    assert watcher.why["observe"] == ("data changed",)

    table.write_text("255")
    fresh, watcher = run(fresh=True)
    assert fresh.bundle.name == f"{first.bundle.name}.2"
    assert set(watcher.why.values()) == {("--fresh",)}
    assert fresh.report.version == bundles.verify(fresh.bundle).manifest.version
    assert bundles.verify(first.bundle) == held
    found, _ = run()
    assert (found.reused, found.bundle) == (True, fresh.bundle)

    (tmp_path / "helper_beside.py").write_text("CLASSES = 4")
    relabelled, watcher = run()
    assert relabelled.bundle.name.partition(".2")[0] != first.bundle.name
    cause = ("code changed: helper_beside.py", "data changed")
    assert set(watcher.why.values()) == {cause}

    other = path.rename(tmp_path / "other.yaml")  # its name is the same, and it is another recipe
    path = Path(other)
    (tmp_path / "helper_beside.py").write_text("CLASSES = 5")
    _, watcher = run()
    assert watcher.why == {}


def test_what_changes_while_it_is_compiled_is_not_published(
    recipe: Callable[..., Path], tmp_path: Path
) -> None:
    class Meddler(Nobody):
        def finished(self, stage: str, seconds: float, found: str, cached: bool) -> None:
            if stage == "measure":
                with (tmp_path / "digits.onnx").open("ab") as model:
                    model.write(b"\x32\x00")  # an empty model_version

    path = recipe(precision={"offer": ["fp32"]})
    with pytest.raises(RecipeError, match=r"file changed: digits\.onnx") as error:
        compile(path, out=tmp_path / "b", store=Store(tmp_path / "store"), listener=Meddler())
    assert error.value.id == "changed-meanwhile"
    assert not list((tmp_path / "b").rglob("manifest.json"))


@pytest.mark.parametrize(
    ("changes", "kind", "line"),
    [
        ({"data": {**NPZ["data"], "options": {"scale": 1.0, "sale": 1}}}, RecipeError, "sale"),
        ({"source": {"factory": "net_beside:broken"}}, RecipeError, "ZeroDivisionError"),
        ({"source": {"factory": "net_beside:mak"}}, RecipeError, 'did you mean "make"'),
        ({"source": {"factory": "net_besid:make"}}, RecipeError, "no module named net_besid"),
        ({"source": {"factory": "net_besid:make"}}, RecipeError, 'did you mean "net_beside"'),
    ],
)
def test_a_fault_in_the_users_code_is_the_users(
    tmp_path: Path, changes: dict[str, object], kind: type[RtcError], line: str
) -> None:
    (tmp_path / "net_beside.py").write_text(f"{NET}\ndef broken():\n    1 / 0\n")
    (tmp_path / "data_beside.py").write_text(DATA)
    document = {**yaml.safe_load(RECIPE), **NPZ, **changes}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(kind, match=line):
        compile(tmp_path / "recipe.yaml", out=tmp_path / "b", store=Store(tmp_path / "store"))


def test_samples_that_do_not_fit_the_model_are_found_before_the_work(
    recipe: Callable[..., Path], tmp_path: Path
) -> None:
    x = np.zeros((90, 3, 32, 32), np.uint8)
    x[:, 0, 0, 0] = np.arange(90)
    np.savez(tmp_path / "samples.npz", x=x, y=np.arange(90) % 3)
    path = recipe(data={"npz": "samples.npz", "classes": 3})
    with pytest.raises(DataError, match="3 × 32 × 32, expected 1 × 28 × 28"):
        compile(path, out=tmp_path / "b", store=Store(tmp_path / "store"))


def test_samples_without_labels_are_found_before_the_work(
    recipe: Callable[..., Path], tmp_path: Path
) -> None:
    x = np.random.default_rng(0).integers(0, 255, (90, 1, 28, 28)).astype(np.uint8)
    np.savez(tmp_path / "samples.npz", x=x)
    path = recipe(data={"npz": "samples.npz", "classes": 10})
    with pytest.raises(DataError):
        compile(path, out=tmp_path / "b", store=Store(tmp_path / "store"))


def test_training_has_labels_where_calibration_comes_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "net_beside.py").write_text(NET)
    (tmp_path / "data_beside.py").write_text(DATA)
    (tmp_path / "line").mkdir()
    samples = np.random.default_rng(1).standard_normal((20, 1, 2, 2)).astype(np.float32)
    np.save(tmp_path / "line" / "seen.npy", 7 * samples)
    passes = [{"train": {"epochs": 1}}, "export-onnx"]
    document = {**yaml.safe_load(RECIPE), **NPZ, "passes": passes, "calibration": {"path": "line"}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
    (result,) = compile(
        tmp_path / "recipe.yaml", out=tmp_path / "build", store=Store(tmp_path / "store")
    )
    assert result.report.curves[0].accuracy
    assert ranges(result)["input"]["seen_high"] == pytest.approx(7 * samples.max())
