from __future__ import annotations

import json

import pytest

from rtc.compiler.recipe import load_recipe, schema


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


def test_new_from_an_onnx_file_names_it(rtc, tmp_path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "net: 1.onnx").write_bytes(b"")
    assert rtc("recipe", "new", "net", "--onnx", "models/net: 1.onnx").code == 0
    read = load_recipe(tmp_path / "net.yaml")
    assert (read.name, read.source.onnx) == ("net", "models/net: 1.onnx")


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
