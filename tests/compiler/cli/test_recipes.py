from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pytest

from rtc.compiler.recipe.schema import load_recipe, schema


def test_new_writes_a_recipe_that_check_accepts(rtc, tmp_path) -> None:
    made = rtc("recipe", "new", "digits", "--output", "recipes/digits.yaml")
    assert made.code == 0, made.err
    checked = rtc("recipe", "check", "recipes/digits.yaml")
    assert checked.code == 0, checked.err
    assert checked.out.startswith("digits 1.0.0: ok\n")
    assert checked.out.index("train(epochs=8") < checked.out.index("export-onnx")
    text = (tmp_path / "recipes" / "digits.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=./recipe.schema.json\n")
    written = json.loads((tmp_path / "recipes" / "recipe.schema.json").read_text())
    assert written == json.loads(json.dumps(schema()))


def test_new_takes_a_files_name_for_what_it_is(rtc, tmp_path) -> None:
    assert rtc("recipe", "new", "net.yaml").code == 0
    assert load_recipe(tmp_path / "net.yaml").name == "net"


def net(text: str = "float[n,3,8,8] px) => (float[n,7] scores", **weights: np.ndarray) -> bytes:
    """A model: pictures in, the mean of each weighed channel out."""
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 17]> '
        f"net ({text}) {{ flat = Flatten (px) scores = Gemm (flat, w) }}"
    )
    values = weights or {"w": np.ones((192, 7), np.float32)}
    model.graph.node[1].name = "head"
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, n) for n, v in values.items())
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (
            net(),
            ["px: float32 (N, 3, 8, 8)", "classes: 7\n", "batch: 1 ", "layout: hwc", "0 to\n# 6;"],
        ),
        (
            net("float[4,12] px) => (float[4,k] scores", w=np.ones((12, 5), np.float32)),
            ["px: float32 (N, 12)", "classes: 5\n", "batch: 4 "],
        ),
    ],
)
def test_new_from_an_onnx_file_is_for_its_input(model, says, rtc, tmp_path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "net: 1.onnx").write_bytes(model)
    made = rtc("recipe", "new", "net", "--onnx", "models/net: 1.onnx")
    assert made.code == 0, made.err
    assert "samples are yours to give" in made.out
    text = (tmp_path / "net.yaml").read_text()
    assert all(each in text for each in says), text


def test_a_starter_for_a_model_lacks_nothing_but_its_samples(rtc, tmp_path) -> None:
    (tmp_path / "net.onnx").write_bytes(net())
    assert rtc("recipe", "new", "net", "--onnx", "net.onnx").code == 0
    checked = rtc("recipe", "check", "net.yaml")
    assert checked.code == 2
    assert checked.err.count("\n") == 1
    assert "data.npz is not there" in checked.err
    np.savez(tmp_path / "samples.npz", x=np.ones((9, 3, 8, 8), np.float32), y=np.arange(9) % 7)
    checked = rtc("recipe", "check", "net.yaml")
    assert checked.code == 0, checked.err


GOOD = """\
recipe: 1
name: net
version: 1.0.0
source: {onnx: net.onnx}
data: {npz: samples.npz, classes: 7, preprocess: {layout: as-is}}
"""
TORCH = """\
recipe: 1
name: net
version: 1.0.0
source: {factory: "net_checked:make", weights: w.safetensors}
data: {dataset: "data_checked:make"}
passes: [{distill: {student: "net_checked:student"}}, export-onnx]
"""
PLAN = {"plan": 1, "model": "sha256:1", "target": "cpu", "variant": "mix", "default": "fp32",
        "layers": {"tail": {"precision": "fp32", "because": ""}}}  # fmt: skip


@pytest.fixture
def checked(rtc, tmp_path):
    """Checks a recipe that stands among good files, some of which are others."""
    x = np.ones((9, 3, 8, 8), np.float32)
    np.savez(tmp_path / "samples.npz", x=x, y=np.arange(9) % 7)
    np.savez(tmp_path / "flat.npz", x=x.reshape(9, -1), y=np.arange(9))
    np.savez(tmp_path / "short.npz", x=x, y=np.arange(8))
    np.savez(tmp_path / "unnamed.npz", x)
    (tmp_path / "net.onnx").write_bytes(net())
    (tmp_path / "w.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    (tmp_path / "plan.yaml").write_text(json.dumps(PLAN))
    make = "def make(): ...\ndef student(): ...\n"
    (tmp_path / "net_checked.py").write_text(f"import parts_checked\n{make}1 / 0\n")
    (tmp_path / "parts_checked.py").write_text("from json import *\n")
    (tmp_path / "data_checked.py").write_text("def make(): ...\n")

    def check(text: str, **files: str | bytes) -> Any:
        for name, content in files.items():
            kind = "py" if name.endswith("_checked") else "safetensors" if name == "w" else "onnx"
            raw = content.encode() if isinstance(content, str) else content
            (tmp_path / f"{name}.{kind}").write_bytes(raw)
        (tmp_path / "recipe.yaml").write_text(text)
        return rtc("recipe", "check", "recipe.yaml")

    return check


@pytest.mark.parametrize("text", [GOOD, TORCH])
def test_check_runs_nothing_of_the_users(checked, text) -> None:
    done = checked(text)
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("old", "new", "code", "line"),
    [
        ("net_checked:make", "net_chekced:make", 2, "yaml:4:19: no module named net_chekced"),
        ("net_checked:make", "net_checked:mak", 2, "has no 'mak'; did you mean \"make\"?"),
        ("data_checked:make", "rtc.recipes.datasets.mnist:mnist", 2, 'did you mean "mnist5k"?'),
        (":student", ":pupil", 2, "recipe.yaml:6:30: net_checked has no 'pupil'"),
        ("samples.npz", "flat.npz", 4, "seen 192, expected 3 × 8 × 8"),
        ("samples.npz", "short.npz", 4, "9 samples, labels of shape (8,)"),
        ("samples.npz", "unnamed.npz", 4, "no array x and no y (seen arr_0"),
        ("samples.npz", "net.onnx", 4, "not an .npz file of plain numbers"),
        ("classes: 7", "classes: 8", 4, "the data has more classes than the model (seen 8"),
        ("as-is", "hwc", 4, "8 × 3 × 8, expected 3 × 8 × 8"),
        ("as-is", "hw", 4, 'do not fit the layout "hw"'),
        ("}\n", "}\nprecision: {pin: {heed: half}}\n", 2, "precision.pin: this names a layer that"),
        ("}\n", "}\nprecision: {observers: {t*: mse}}\n", 2, "matches no layer (seen 't*'"),
        ("}\n", "}\nprecision: {residuals: {head: keep-half}}\n", 2, "precision.residuals: this"),
        ("}\n", "}\nprecision: {plan: plan.yaml}\n", 2, "precision.plan: this names a layer"),
        ("}\n", "}\ntargets: [rtx4061]\n", 2, "rtx4061"),
    ],
)  # fmt: skip
def test_check_finds_what_needs_no_work_to_find(old, new, code, line, checked) -> None:
    base = TORCH if old in TORCH and old not in GOOD else GOOD
    before, _, after = base.rpartition(old) if old == "}\n" else base.partition(old)
    done = checked(before + new + after)
    assert done.code == code, done.err
    assert line in done.err


def branched() -> bytes:
    """The model with its head in a branch that is decided when the samples are known."""
    model = onnx.load_model_from_string(net())
    gemm = model.graph.node.pop()
    branch = onnx.helper.make_graph([gemm], "branch", [], [model.graph.output[0]])
    chosen = onnx.helper.make_node(
        "If", ["chosen"], ["scores"], "choice", then_branch=branch, else_branch=branch
    )
    model.graph.node.append(chosen)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "chosen"))
    return model.SerializeToString()


def test_check_keeps_quiet_about_layers_that_samples_decide(checked) -> None:
    text = GOOD.rstrip() + "\nprecision: {pin: {head: half}}\n"
    done = checked(text, net=branched())
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("text", "files", "code", "line"),
    [
        (TORCH, {"w": b"PK\x03\x04zip"}, 3, "a pickled checkpoint can run code"),
        (TORCH, {"w": b"\x80\x02pickle"}, 3, "expected a .safetensors file); convert it where"),
        (TORCH, {"w": b"\x02\0\0\0\0\0\0"}, 3, "not a safetensors file, or a truncated one"),
        (GOOD, {"net": b"PK\x03\x04zip"}, 3, "expected an ONNX file); torch.onnx.export"),
        (GOOD, {"net": net()[:90]}, 3, "not an ONNX model, or a truncated one"),
        (TORCH, {"net_checked": "def make(:"}, 2, "net_checked.py is not Python"),
        (TORCH, {"parts_checked": "import not_there.x"}, 2, "parts_checked.py imports not_there, "),
    ],
)
def test_check_finds_what_is_wrong_with_files(text, files, code, line, checked) -> None:
    done = checked(text, **files)
    assert done.code == code, done.err
    assert line in done.err


def test_check_tells_of_every_fault(checked) -> None:
    done = checked(
        GOOD.replace("samples.npz", "gone.npz").replace(
            "as-is}}", "as-is}}\nprecision: {pin: {heed: half}}"
        )
    )
    assert done.code == 2
    assert "data.npz is not there" in done.err
    assert "'heed'" in done.err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["there"], "there.yaml: there is such a file, and it is not overwritten"),
        (["../up"], "not a recipe's name"),
        (["net", "--onnx", "gone.onnx"], "gone.onnx: there is no such file"),
        (
            ["net", "--onnx", "there.yaml", "--output", "sub/net.yaml"],
            "not below the recipe's folder",
        ),
    ],
)
def test_new_refuses(arguments: list[str], line: str, rtc, tmp_path) -> None:
    (tmp_path / "there.yaml").write_text("mine")
    done = rtc("recipe", "new", *arguments)
    assert done.code == 2
    assert line in done.err
    assert (tmp_path / "there.yaml").read_text() == "mine"
    assert not (tmp_path / "sub").exists()


def test_check_json_is_the_recipes_meaning(rtc, project) -> None:
    document = rtc("recipe", "check", project / "recipe.yaml", "--json").document
    assert document["recipe"]["name"] == "tiny"
    assert document["recipe"]["passes"][0][0] == "fold-constants"
    assert document["recipe"]["data"]["split"]["test"] == 0.7


def test_schema_is_the_same_document_with_and_without_json(rtc) -> None:
    plain = rtc("recipe", "schema")
    assert plain.code == 0
    assert plain.document == rtc("recipe", "schema", "--json").document
    assert plain.document["$schema"].endswith("2020-12/schema")
