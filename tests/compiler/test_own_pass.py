"""A pass of the user's own, in a module beside the recipe: nothing of rtc is touched for it."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from digits_net import digits, digits_net

from rtc.compiler import compile  # noqa: A004 - the verb of this tool
from rtc.compiler.bundle import bundles
from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.progress import Nobody
from rtc.compiler.publish.bundle_content import report_of
from rtc.compiler.recipe import admission
from rtc.compiler.recipe.schema import load_recipe
from rtc.compiler.storage.store import Store

PRUNE = '''
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rtc.compiler.core.passes import Bounded, Pass, PassContext, PassResult
from rtc.compiler.core.unit import Level, OnnxModel, Unit


@dataclass(frozen=True)
class Prune(Pass):
    """Set the smallest weights of each layer to zero."""

    name: ClassVar[str] = "prune"
    takes: ClassVar[Level] = Level.ONNX
    gives: ClassVar[Level] = Level.ONNX
    share: float = 0.1

    @property
    def bound(self) -> Bounded:
        return Bounded("disagreement", 0.05)

    def apply(self, unit: Unit, ctx: PassContext) -> PassResult:
        import onnx

        model = onnx.load_model_from_string(unit.onnx.proto)
        zeros = 0
        for tensor in model.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor).copy()
            if values.ndim > 1 and values.dtype == np.float32:
                small = np.abs(values) <= np.quantile(np.abs(values), self.share)
                zeros += int(np.count_nonzero(values[small]))
                values[small] = 0
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        if not zeros:
            return PassResult(unit, False, "no weight is small")
        pruned = Unit(OnnxModel(model.SerializeToString()), unit.signature)
        return PassResult(pruned, True, f"{zeros} weights set to zero", {"zeros": zeros})
'''
RECIPE = """
recipe: 1
name: digits
version: 1.2.3
source: {onnx: digits.onnx}
data:
  dataset: rtc.recipes.datasets.mnist:mnist5k
  split: {train: 0.4, calibration: 0.1, test: 0.2}
precision: {offer: [fp32]}
measure: {seconds: 0.05}
"""
Write = Callable[..., Path]


class Watcher(Nobody):
    """Keeps which stages ran, and why."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.why: dict[str, list[str]] = {}

    def redone(self, stage: str, why) -> None:
        self.why[stage] = list(why)

    def finished(self, stage: str, seconds: float, found: str, cached: bool) -> None:
        if not cached:
            self.ran.append(stage)


@pytest.fixture(scope="module")
def model() -> bytes:
    return digits_net(digits().train)


@pytest.fixture
def write(tmp_path: Path, model: bytes) -> Iterator[Write]:
    """Writes a module of passes, and a recipe that names them."""
    (tmp_path / "digits.onnx").write_bytes(model)

    def written(*passes: object, source: str = PRUNE) -> Path:
        (tmp_path / "mine.py").write_text(source)
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(RECIPE), "passes": list(passes)}))
        return path

    yield written
    admission.admit_modules_in(Path(__file__).parent / "nowhere")
    sys.path.remove(str(Path(__file__).parent / "nowhere"))
    admission._admitted.clear()
    importlib.invalidate_caches()


def test_a_pass_beside_the_recipe_is_compiled_checked_and_done_again_when_edited(
    write: Write, tmp_path: Path
) -> None:
    store, out = Store(tmp_path / "store"), tmp_path / "build"
    passes = ("fold-constants", {"mine:Prune": {"share": 0.2}})
    (first,) = compile(write(*passes), out=out, store=store)
    verified = bundles.verify(first.bundle)
    (row,) = [row for row in report_of(verified).certificates if row.stage == "prune"]
    assert row.passed
    assert row.before != row.after
    weights = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load_model_from_string(verified.files["float.onnx"]).graph.initializer
    ]
    assert all(np.mean(w == 0) >= 0.2 for w in weights if w.ndim > 1)

    same = Watcher()
    (again,) = compile(write(*passes), out=out, store=store, listener=same)
    assert again.reused
    assert "prune" not in same.ran

    edited = Watcher()
    path = write(*passes, source=PRUNE.replace("weights set to zero", "weights are zero now"))
    (other,) = compile(path, out=out, store=store, listener=edited)
    assert not other.reused
    assert "prune" in edited.ran
    assert "fold-constants" not in edited.ran
    assert any("mine.py" in why for why in edited.why["prune"]), edited.why


def test_a_recipe_does_not_run_with_passes_of_another_text_than_it_was_read_with(
    write: Write, tmp_path: Path
) -> None:
    recipe = load_recipe(write("mine:Prune"))
    write("mine:Prune", source=PRUNE + "\n# edited\n")
    with pytest.raises(RecipeError, match="changed since this recipe was read") as error:
        compile(recipe, out=tmp_path / "build", store=Store(tmp_path / "store"))
    assert error.value.fix == "read the recipe again"


def test_two_classes_of_one_name_are_two_recipes(write: Write) -> None:
    twice = PRUNE + PRUNE.replace("class Prune", "class Other")
    first = load_recipe(write("mine:Prune", source=twice)).identity()
    other = load_recipe(write("mine:Other", source=twice)).identity()
    assert json.dumps(first) != json.dumps(other)


@pytest.mark.parametrize(
    ("named", "change", "what", "told"),
    [
        ("mien:Prune", ("", ""), "no module named mien", 'did you mean "mine"?'),
        ("mine:Prun", ("", ""), "mine has no 'Prun'", 'did you mean "Prune"?'),
        ("mine:np", ("", ""), "mine:np is not a pass", "made from"),
        ("mine:Pass", ("", ""), "the pass mine:Pass lacks methods", "seen no apply"),
        ("mine:Prune", ("(Pass)", ""), "mine:Prune is not a pass", "made from"),
        ("mine:Prune", ("def apply", "def aply"), "mine:Prune lacks methods", "seen no apply"),
        ("mine:Prune", ("@dataclass(frozen=True)", ""), "is not a pass", "@dataclass(frozen=True)"),
        ("mine:Prune", ('= "prune"', '= "Prune It"'), "is not a pass", "kebab-case"),
        ("mine:Prune", (" = Level.ONNX", ""), "mine:Prune is not a pass", "takes and gives"),
        ("mine:Prune", ("import numpy", "import numpi"), "cannot be made", "install numpi"),
        ("mine:Prune", ("import numpy as np", "1 / 0"), "cannot be imported", "ZeroDivisionError"),
        ("mine:Prune", ("float = 0.1", "np.ndarray = None"), "cannot be made", "JSON types"),
        ("mine:Prune", ("takes: ClassVar[Level] = Level.ONNX",
                        "takes: ClassVar[Level] = Level.TORCH"),
         "prune works on a PyTorch model, and here it is an ONNX model", "remove it"),
        ({"mine:Prune": {"shear": 0.2}}, ("", ""), "unknown key 'shear'", 'did you mean "share"?'),
        ("fold-constant", ("", ""), "there is no pass", 'did you mean "fold-constants"?'),
        ("insert-qdq", ("", ""), "runs once per target by itself", "precision.offer"),
    ],
)  # fmt: skip
def test_a_wrong_pass_is_one_line_that_says_where_and_how_to_mend_it(
    write: Write, named: object, change: tuple[str, str], what: str, told: str
) -> None:
    path = write(named, source=PRUNE.replace(*change) if change[0] else PRUNE)
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    line = str(error.value)
    assert what in line
    assert told in line
    assert line.startswith(f"{path}:"), line
    assert error.value.fix, line


@pytest.mark.parametrize(
    ("change", "what", "told"),
    [
        ("zeros = 0", ("zeros = 1 / 0"), "this pass of the recipe's failed|ZeroDivisionError"),
        ("return PassResult(pruned, True,", "return (pruned, True,", "something else|seen tuple"),
        (
            "gives: ClassVar[Level] = Level.ONNX",
            "gives: ClassVar[Level] = Level.TORCH",
            "the PyTorch model is never exported",
        ),
    ],
)
def test_a_pass_that_fails_or_lies_is_the_recipe_s_fault(
    write: Write, tmp_path: Path, change: str, what: str, told: str
) -> None:
    path = write("mine:Prune", source=PRUNE.replace(change, what))
    with pytest.raises(RecipeError) as error:
        compile(path, out=tmp_path / "build", store=Store(tmp_path / "store"))
    for each in told.split("|"):
        assert each in str(error.value)
    assert error.value.where
    assert error.value.fix


def test_an_installed_package_registers_passes(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site-packages"
    info = site / "prunex-3.1.dist-info"
    info.mkdir(parents=True)
    (site / "prunex.py").write_text(PRUNE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: prunex\nVersion: 3.1\n")
    (info / "entry_points.txt").write_text("[rtc.passes]\nprune = prunex:Prune\n")
    monkeypatch.syspath_prepend(str(site))
    assert "prune" in {each.name for each in entry_points(group="rtc.passes")}
    recipe = load_recipe(write({"prune": {"share": 0.3}}))
    assert recipe.passes[0].options() == {"share": 0.3}
    assert recipe.pass_code == {"prunex": "3.1"}
    with pytest.raises(RecipeError) as error:
        load_recipe(write("prunne"))
    assert error.value.fix == 'did you mean "prune"?'
    sys.modules.pop("prunex")
