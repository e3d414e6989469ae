from pathlib import Path

import numpy as np
import pytest

from rtc.compiler.core.errors import DataError, RecipeError
from rtc.compiler.frontend.samples import splits_of
from rtc.compiler.recipe.schema import load_recipe

RECIPE = """\
recipe: 1
name: tiny
version: 1.0.0
source: {onnx: model.onnx}
data:
  npz: samples.npz
  classes: 3
  split: {train: 0.0, calibration: 0.0, test: 1.0}
  preprocess: {scale: 2.0}
"""


def recipe(folder: Path, more: str = "calibration: {path: here}\n"):
    (folder / "model.onnx").write_bytes(b"")
    samples = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    np.savez(folder / "samples.npz", x=samples, y=np.arange(6) % 3)
    (folder / "recipe.yaml").write_text(RECIPE + more)
    return load_recipe(folder / "recipe.yaml")


def test_calibration_samples_from_a_folder_take_the_datas_preprocessing(tmp_path):
    (tmp_path / "here").mkdir()
    np.save(tmp_path / "here" / "a.npy", np.full((3, 4), 0.5, np.float32))
    splits = splits_of(recipe(tmp_path))
    assert splits.calibration.inputs().tolist() == np.ones((3, 4)).tolist()
    assert splits.calibration.labels is None
    assert len(splits.test) == 6
    before = splits.digest
    assert before != splits_of(recipe(tmp_path, "")).digest
    np.save(tmp_path / "here" / "a.npy", np.full((3, 4), 0.25, np.float32))
    assert splits_of(recipe(tmp_path)).digest != before


def test_a_folder_that_is_not_there_is_told_of_with_its_line(tmp_path):
    with pytest.raises(RecipeError) as error:
        recipe(tmp_path)
    assert error.value.where.endswith("recipe.yaml:10:21")
    assert error.value.id == "missing-file"


def test_calibration_samples_of_another_shape_are_named_with_their_folder(tmp_path):
    (tmp_path / "here").mkdir()
    np.save(tmp_path / "here" / "a.npy", np.zeros((3, 5), np.float32))
    splits = splits_of(recipe(tmp_path))
    with pytest.raises(DataError, match="calibration samples differ in shape") as error:
        _ = splits.calibration
    assert (error.value.seen, error.value.expected) == ("5", "4")
    assert error.value.where == str(tmp_path / "here")


FUNCTIONS = """
import numpy as np
X, Y = np.random.default_rng(0).random((6, 4)), np.arange(6) % 3
def needs(root, size=3): return X, Y
def fails(): return X / ZERO
def takes(**options): return X, Y
value = X
"""


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("needs", DataError, "wants arguments that the recipe does not give (seen root, expected"),
        ("fails", DataError, "failed (seen NameError: name 'ZERO' is not defined"),
        ("value", RecipeError, "not a function"),
        ("absent", RecipeError, "has no 'absent'"),
        ("takes", None, ""),
        ("broken", RecipeError, "cannot be imported (seen SyntaxError: "),
    ],
)
def test_a_data_sets_function_that_cannot_be_called_is_named(
    tmp_path, monkeypatch, name, kind, words
):
    monkeypatch.syspath_prepend(tmp_path)
    text = FUNCTIONS if name != "broken" else "def broken(:"
    (tmp_path / f"functions_{name}.py").write_text(text)
    given = recipe(tmp_path, "")
    section = given.data.model_copy(
        update={"npz": None, "classes": None, "dataset": f"functions_{name}:{name}"}
    )
    given = given.model_copy(update={"data": section})
    if kind is None:
        assert len(splits_of(given).test) == 6
        return
    with pytest.raises(kind) as error:
        splits_of(given)
    assert words in str(error.value)
