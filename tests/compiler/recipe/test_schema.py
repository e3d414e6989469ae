"""Recipes: what is read, and the one line that each kind of mistake gets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rtc.compiler.core.data import Preprocess
from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.precision import Precision, Variant
from rtc.compiler.core.unit import Level
from rtc.compiler.documents import strict_yaml
from rtc.compiler.recipe import schema
from rtc.passes.registry import PASSES, PER_TARGET
from rtc.passes.repair.adaround import Adaround
from rtc.passes.repair.correct_bias import CorrectBias

TEXT = """\
recipe: 1
name: lenet5-mnist
version: 1.0.0
seed: 7
source:
  factory: rtc.recipes.models.lenet5:teacher
data:
  dataset: rtc.recipes.datasets.mnist:mnist5k
  split: {train: 0.7, calibration: 0.1, test: 0.2}
  preprocess: {scale: 0.5, mean: [0.1307], std: [0.3081], layout: hw}
passes:
  - train: {epochs: 8, lr: 1e-2}
  - export-onnx
  - fold-constants:
precision:
  offer: [fp32, int8]
  pin: {conv1: fp16, "/features/*": int8}
batch: 64
targets: [cpu, rtx4060ti]
gates: {top1_drop: 1e-2, latency_ms: null, contract: strict}
"""
SOURCE = "factory: rtc.recipes.models.lenet5:teacher"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "recipe.yaml"


def load(path: Path, text: str) -> schema.Recipe:
    path.write_text(text, encoding="utf-8")
    return schema.load_recipe(path)


def refusal(path: Path, old: str, new: str) -> tuple[str, str, RecipeError]:
    """The place (line:column) and the line of the error after an edit of the good recipe."""
    assert old in TEXT
    with pytest.raises(RecipeError) as caught:
        load(path, TEXT.replace(old, new, 1))
    error = caught.value
    assert "\n" not in str(error)
    assert error.exit_code == 2
    file, _, place = error.where.partition(f"{path.name}:")
    assert file == f"{path.parent}/"
    return place, str(error), error


def test_every_value_has_its_type(path: Path) -> None:
    read = load(path, TEXT)
    assert (read.name, read.version, read.seed, read.batch) == ("lenet5-mnist", "1.0.0", 7, 64)
    assert read.source.level is Level.TORCH
    assert read.data.preprocess == Preprocess(0.5, (0.1307,), (0.3081,), "hw")
    assert read.data.split.test == 0.2
    assert [step.name for step in read.passes] == ["train", "export-onnx", "fold-constants"]
    assert read.passes[0].options()["epochs"] == 8
    assert read.passes[0].options()["lr"] == 0.01
    assert read.precision.offer == (Variant.FP32, Variant.INT8)
    assert read.precision.pin == {"conv1": Precision.HALF, "/features/*": Precision.INT8}
    assert read.targets == ("cpu", "rtx4060ti")
    assert read.gates.top1_drop == 0.01
    assert read.gates.latency_ms is None
    assert read.gates.contract == "strict"
    assert read.measure.seconds == 6.0
    assert (read.path, read.text) == (path, TEXT)


def test_a_recipe_cannot_be_changed(path: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(path, TEXT).seed = 8


def test_identity_is_what_matters_and_nothing_else(path: Path, tmp_path: Path) -> None:
    first = load(path, TEXT).identity()
    elsewhere = load(
        tmp_path / "other.yaml", "# a comment\n" + TEXT.replace("seed: 7", "seed:   7")
    )
    assert elsewhere.identity() == first
    assert json.loads(json.dumps(first))["passes"][0][:2] == ["train", 1]
    for old, new in (("epochs: 8", "epochs: 9"), ("seed: 7", "seed: 8"), ("batch: 64", "batch: 1")):
        assert load(path, TEXT.replace(old, new)).identity() != first


def test_repairs_run_in_their_own_order_with_their_options(path: Path) -> None:
    assert load(path, TEXT).precision.repairs.steps == ()
    repairs = "repairs: {correct-bias: , adaround: {below_snr_db: 30}}"
    read = load(path, TEXT.replace("precision:", f"precision:\n  {repairs}", 1))
    assert read.precision.repairs.steps == (Adaround(below_snr_db=30.0), CorrectBias())
    assert read.identity() != load(path, TEXT).identity()
    wrong = TEXT.replace("precision:", "precision:\n  repairs: {adaround: {sample: 3}}", 1)
    with pytest.raises(RecipeError, match='did you mean "samples"'):
        load(path, wrong)


@pytest.mark.parametrize(
    ("old", "new", "place", "line"),
    [
        ("seed: 7", "sed: 7", "4:1", "unknown key 'sed'; did you mean \"seed\"?"),
        ("epochs: 8", "epoch: 8", "12:13", 'did you mean "epochs"?'),
        ("scale: 0.5", "skale: 0.5", "10:16", 'did you mean "scale"?'),
        ("seed: 7", "seed: 7\nseed: 8", "5:1", "duplicate key 'seed'"),
        ("seed: 7", "seed: seven", "4:7", "seen 'seven', expected a valid integer"),
        ("seed: 7", "seed: true", "4:7", "seen True, expected a valid integer"),
        ("seed: 7", "seed: 1.5", "4:7", "seen 1.5"),
        ("seed: 7", "seed: -1", "4:7", "greater than or equal to 0"),
        ("seed: 7", "seed: .nan", "4:7", "not a finite number"),
        ("seed: 7", "seed: !!python/name:os.system x", "4:7", "tags are not allowed"),
        ("version: 1.0.0", "version: 1.0", "3:10", "put it in quotes"),
        ("name: lenet5-mnist", "name: ../up", "2:7", "name: wrong value (seen '../up'"),
        ("name: lenet5-mnist\n", "", "1:1", "missing key 'name'"),
        ("recipe: 1", "recipe: 2", "1:9", "newer than this rtc"),
        ("recipe: 1", "recipe: true", "1:9", "seen True"),
        ("test: 0.2", "test: 0.4", "9:10", "add up to 1 at most, and add up to 1.2"),
        ("test: 0.2", "test: 0.0", "9:47", "greater than 0"),
        ("layout: hw", "layout: wh", "10:67", 'did you mean "hw"?'),
        ("[0.3081]", "[0.0]", "10:15", "std be above 0"),
        ("- train: {epochs: 8, lr: 1e-2}", "- tain", "12:5", 'did you mean "train"?'),
        ("- train:", "- tain:", "12:5", 'did you mean "train"?'),
        ("epochs: 8", "epochs: 0", "12:21", "greater than or equal to 1"),
        ("{epochs: 8, lr: 1e-2}", "8", "12:12", "passes.0.train: wrong value"),
        ("- export-onnx", "- 3", "13:5", "not a pass (seen int"),
        ("- fold-constants:", "- fold-constants:\n    train:", "14:5", "seen 2 keys"),
        ("  - export-onnx\n", "", "13:5", 'put "- export-onnx" before it'),
        ("- fold-constants:", "- export-onnx", "14:5", "move it before export-onnx at"),
        ("- fold-constants:", "- train", "14:5", "move it before export-onnx at"),
        ("  - export-onnx\n  - fold-constants:\n", "", "12:3", "never exported"),
        ("[fp32, int8]", "[fp32, int9]", "16:17", 'did you mean "int8"?'),
        ("[fp32, int8]", "[int8, int8]", "16:10", "must name nothing twice"),
        ("[fp32, int8]", "[]", "16:10", "at least 1 item"),
        ("precision:", "precision:\n  observer: minmix", "16:13", 'did you mean "minmax"?'),
        ("precision:", "precision:\n  observers: {a: mes}", "16:18", 'did you mean "mse"?'),
        ("precision:", "precision:\n  weights: mas", "16:12", "expected 'minmax' or 'mse'"),
        ("conv1: fp16", "conv1: fp8", "17:16", "expected 'fp32', 'half' or 'int8'"),
        ("[cpu, rtx4060ti]", "[cpu, rtx4060]", "19:16", 'did you mean "rtx4060ti"?'),
        ("[cpu, rtx4060ti]", "[cpu, cpu]", "19:10", "must name nothing twice"),
        ("top1_drop: 1e-2", "top1_drop: no", "20:20", "seen 'no', expected a valid number"),
        ("contract: strict", "contract: strct", "20:54", 'did you mean "strict"?'),
        (SOURCE, "{}", "6:3", "exactly one of factory and onnx"),
        (SOURCE, SOURCE + "\n  onnx: a.onnx", "6:3", "exactly one of factory and onnx"),
        (SOURCE, "factory: rtc.recipes.models.lenet5", "6:12", '"package.module:function"'),
        (SOURCE, "onnx: ../a.onnx", "6:9", "stay below the recipe's folder"),
        (SOURCE, "onnx: /a.onnx", "6:9", "stay below the recipe's folder"),
        (SOURCE, r"onnx: 'C:\a.onnx'", "6:9", "stay below the recipe's folder"),
        (SOURCE, "onnx: a.onnx\n  weights: w.safetensors", "6:3", "belong to a factory"),
        (SOURCE, SOURCE + "\n  weights: gone.safetensors", "7:12", "source.weights is not there"),
        ("  dataset: rtc.recipes.datasets.mnist:mnist5k\n", "", "8:3", "one of dataset and npz"),
        (
            "dataset: rtc.recipes.datasets.mnist:mnist5k",
            "npz: a.npz",
            "8:3",
            "classes goes with npz",
        ),
    ],
)
def test_one_placed_line_for_each_mistake(
    path: Path, old: str, new: str, place: str, line: str
) -> None:
    found, said, _ = refusal(path, old, new)
    assert line in said
    assert found == place


def test_an_onnx_recipe_takes_no_torch_pass(path: Path) -> None:
    (path.parent / "a.onnx").write_bytes(b"")
    place, line, error = refusal(path, SOURCE, "onnx: a.onnx")
    assert (place, error.id) == ("12:5", "pass-order")
    assert "train works on a PyTorch model, and here it is an ONNX model" in line


def test_an_error_names_the_folder_that_a_file_should_lie_in(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_graph = TEXT.replace("  - train: {epochs: 8, lr: 1e-2}\n  - export-onnx\n", "")
    path.write_text(only_graph.replace(SOURCE, "onnx: a.onnx"))
    monkeypatch.chdir(path.parent)
    with pytest.raises(RecipeError, match="is not there") as caught:
        schema.load_recipe(Path(path.name))
    assert caught.value.expected == f"a file in {path.parent.resolve()}"


def test_a_missing_file_and_a_folder_in_its_place(path: Path) -> None:
    only_graph = TEXT.replace("  - train: {epochs: 8, lr: 1e-2}\n  - export-onnx\n", "")
    with pytest.raises(RecipeError, match=r"source\.onnx is not there \(seen 'a.onnx'") as caught:
        load(path, only_graph.replace(SOURCE, "onnx: a.onnx"))
    assert caught.value.id == "missing-file"
    (path.parent / "a.onnx").mkdir()
    with pytest.raises(RecipeError, match=r"source\.onnx is not a file"):
        load(path, only_graph.replace(SOURCE, "onnx: a.onnx"))


def test_a_recipe_of_graph_passes_alone(path: Path) -> None:
    (path.parent / "a.onnx").write_bytes(b"")
    only_graph = TEXT.replace("  - train: {epochs: 8, lr: 1e-2}\n  - export-onnx\n", "")
    read = load(path, only_graph.replace(SOURCE, "onnx: a.onnx"))
    assert read.source.level is Level.ONNX
    assert read.resolve("a.onnx") == path.parent / "a.onnx"


def test_all_mistakes_are_told_in_the_order_of_the_file(path: Path) -> None:
    place, line, _ = refusal(path, "batch: 64", "batch: 0\nbath: 1\ntarget: cpu")
    assert place == "18:8"
    assert (
        f"and 2 more: {path}:19:1: unknown key 'bath' · {path}:20:1: unknown key 'target'" in line
    )


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n", "text\n"])
def test_what_is_no_recipe_at_all(path: Path, text: str) -> None:
    with pytest.raises(RecipeError, match="not a recipe"):
        load(path, text)


def test_control_characters_in_a_value_are_shown_and_not_sent(path: Path) -> None:
    _, line, _ = refusal(path, "seed: 7", r'seed: "\e[31mred"')
    assert "\\x1b[31mred" in line


def test_a_pass_that_contradicts_itself_is_placed(path: Path) -> None:
    distill = '- distill: {student: "m:f", hard_fraction: 0.7, feature_fraction: 0.7}\n  - train'
    place, line, _ = refusal(path, "- train", distill)
    assert place.startswith("12:")
    assert "add up to more than 1" in line


def test_a_required_option_that_is_missing_is_named(path: Path) -> None:
    place, line, error = refusal(path, "- train", "- distill\n  - train")
    assert (place, error.id) == ("12:5", "missing-key")
    assert "missing key 'student' in passes.0" in line


def test_parsing_imports_no_framework(path: Path) -> None:
    path.write_text(TEXT, encoding="utf-8")
    code = (
        "import sys; from pathlib import Path; from rtc.compiler.recipe.schema import load_recipe\n"
        f"load_recipe(Path({str(path)!r}))\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'openvino', 'tensorrt_rtx', 'modelopt'}\n"
        "sys.exit(f'imported {heavy & set(sys.modules)}' if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_schema_describes_every_pass_and_option() -> None:
    found = schema.schema()
    entry = found["properties"]["passes"]["items"]["oneOf"]
    assert set(entry[-1]["properties"]) == set(PASSES) - set(PER_TARGET)
    assert "distill" not in entry[0]["enum"], "distill cannot do without options"
    assert "export-onnx" in entry[0]["enum"]
    distill = found["$defs"]["Distill"]
    assert distill["additionalProperties"] is False
    assert "student" in distill["required"]
    for definition in found["$defs"].values():
        for name, option in definition.get("properties", {}).items():
            told = {"description", "$ref", "anyOf"} & set(option)
            assert told or definition.get("title") == "Preprocess", name


def test_every_ref_of_the_schema_leads_somewhere() -> None:
    found = schema.schema()
    text = json.dumps(found)
    refs = {part.split('"')[0] for part in text.split('"$ref": "#/$defs/')[1:]}
    assert refs
    assert refs <= set(found["$defs"])


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_KEYS = st.sampled_from([*schema._File.model_fields, "train", "options", "factory", "x", "split"])
_TREES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4)
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(_KEYS, _TREES))
def test_no_tree_gives_anything_but_a_recipe_or_one_line(tree: dict[str, object]) -> None:
    good = yaml.safe_load(TEXT)
    content = yaml.safe_dump({**good, **tree}, allow_unicode=True).encode("utf-8", "replace")
    try:
        schema.parse_recipe(strict_yaml.parse(content, "r.yaml"), Path("r.yaml"))
    except RecipeError as error:
        line = str(error)
    else:
        line = "r.yaml:"
    assert line.startswith("r.yaml:")
    assert "\n" not in line


def test_the_schema_beside_the_recipes_is_the_current_one() -> None:
    """Mend with: rtc recipe schema > recipes/recipe.schema.json"""
    written = Path(__file__).parents[3] / "recipes" / "recipe.schema.json"
    assert json.loads(written.read_text()) == json.loads(json.dumps(schema.schema()))


def test_a_target_that_is_a_file_lies_beside_the_recipe(path: Path) -> None:
    board = "name: my-board\nvendor: me\nkind: cpu\nbackends: [onnxruntime]\n"
    (path.parent / "board.yaml").write_text(board, encoding="utf-8")
    read = load(path, TEXT.replace("targets: [cpu, rtx4060ti]", "targets: [board.yaml]"))
    assert read.targets == ("board.yaml",)
