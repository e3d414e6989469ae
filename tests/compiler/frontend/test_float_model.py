"""What names the model of a factory: all that it gave, and the source that it stands on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from check_pass import parse

from rtc.compiler.core.progress import Nobody
from rtc.compiler.execution.stages import Stages
from rtc.compiler.frontend.float_model import factory_model, make_front
from rtc.compiler.frontend.samples import splits_of
from rtc.compiler.recipe.schema import load_recipe
from rtc.compiler.storage.store import Store

pytest.importorskip("torch")

RECIPE = """
recipe: 1
name: tiny
version: 1.0.0
source: {factory: net_front:make}
data: {npz: samples.npz, classes: 3, split: {train: 0, calibration: 0.5, test: 0.5}}
passes: [export-onnx]
"""
NET = """
from pathlib import Path
from torch import nn
from parts_front import Activation
def make():
    linear = nn.Linear(4, 3)
    linear.weight.data *= float(Path({weights!r}).read_text())
    return nn.Sequential(nn.Flatten(), linear, Activation())
"""
PARTS = "from torch.nn import {} as Activation"


@pytest.fixture
def model(tmp_path: Path) -> Callable[[], str]:
    """The digest of what a recipe's factory gives now."""
    x = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", x=x, y=np.arange(12) % 3)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "net_front.py").write_text(NET.format(weights=str(tmp_path / "weights.txt")))
    (tmp_path / "parts_front.py").write_text(PARTS.format("ReLU"))
    (tmp_path / "weights.txt").write_text("1.0")

    def digest() -> str:
        recipe = load_recipe(tmp_path / "recipe.yaml")
        recipe.admit_code()
        unit = factory_model(recipe, splits_of(recipe))
        assert unit is not None
        return unit.digest

    return digest


def test_weights_that_a_factory_reads_by_itself_name_the_model(
    model: Callable[[], str], tmp_path: Path
) -> None:
    first = model()
    assert model() == first
    (tmp_path / "weights.txt").write_text("2.0")
    assert model() != first


def test_a_model_of_the_same_weights_and_other_code_is_another(
    model: Callable[[], str], tmp_path: Path
) -> None:
    first = model()
    (tmp_path / "notes.py").write_text("nothing imports it")
    assert model() == first
    (tmp_path / "parts_front.py").write_text(PARTS.format("Sigmoid"))
    assert model() != first


def test_a_data_sets_function_is_called_once(tmp_path: Path) -> None:
    net = parse(
        "g (float[N,4] x) => (float[N,3] y) { y = MatMul(x, w) }",
        w=np.eye(4, 3, dtype=np.float32),
    )
    (tmp_path / "model.onnx").write_bytes(net.onnx.proto)
    (tmp_path / "counted_front.py").write_text(
        "import numpy as np\n"
        "from pathlib import Path\n"
        "def samples():\n"
        "    with Path(__file__).with_name('calls').open('a') as file: file.write('x')\n"
        "    x = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)\n"
        "    return x, x[:, :3].argmax(1)\n"
    )
    (tmp_path / "recipe.yaml").write_text(
        "recipe: 1\nname: counted\nversion: 1.0.0\nsource: {onnx: model.onnx}\n"
        "data: {dataset: counted_front:samples, split: {train: 0, calibration: 0.5, test: 0.5}}\n"
        "passes: [eliminate-identity]\n"
    )
    recipe = load_recipe(tmp_path / "recipe.yaml")
    recipe.admit_code()
    make_front(recipe, splits_of(recipe), Stages(Store(tmp_path / "store"), Nobody()))
    assert (tmp_path / "calls").read_text() == "x"
