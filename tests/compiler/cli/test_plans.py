"""`rtc precision show`, `why`, `diff` on a bundle, and `try` on its recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from residual_nets import blocks

from rtc.compiler import pipeline
from rtc.compiler.cli.compiling import _seconds
from rtc.compiler.storage.store import Store

RECIPE = {
    "recipe": 1,
    "name": "blocks",
    "version": "1.0.0",
    "source": {"onnx": "model.onnx"},
    "data": {
        "npz": "samples.npz",
        "classes": 10,
        "split": {"train": 0.0, "calibration": 0.6, "test": 0.4},
    },
    "precision": {"offer": ["half", "int8", "mix"], "search": {"seconds": 300}},
    "targets": ["rtx4060ti"],
    "batch": 4,
    "gates": {"top1_drop": 0.5, "parity": 0.3, "chance": None},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with residual blocks, and its searched bundle for a GPU that is not here."""
    folder = tmp_path_factory.mktemp("plans")
    (folder / "model.onnx").write_bytes(blocks(1).onnx.proto)
    draw = np.random.default_rng(0)
    x = draw.normal(size=(100, 3, 12, 12)).astype(np.float32)
    np.savez(folder / "samples.npz", x=x, y=np.arange(100) % 10)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    pipeline.compile(folder / "recipe.yaml", out=folder / "build", store=Store(folder / "store"))
    return folder


@pytest.fixture
def bundle(home: Path) -> Path:
    return home / "build/blocks/rtx4060ti"


@pytest.fixture
def plan(home: Path, bundle: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes the bundle's plan with keys changed."""

    def write(**changes: object) -> Path:
        path = tmp_path / "plan.yaml"
        given = yaml.safe_load((bundle / "latest/plan.yaml").read_text())
        path.write_text(yaml.safe_dump({**given, **changes}, sort_keys=False))
        return path

    return write


def test_show_has_a_line_for_each_layer(rtc, bundle: Path, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "180")
    found = rtc("precision", "show", bundle, "--json").document
    layers = {row["name"]: row for row in found["layers"]}
    assert list(layers)[:3] == ["stem", "stem_relu", "a1"]
    assert set(layers["a1"]["losses"]) == {"half", "int8"}
    assert {"half", "int8", "fp32"} <= set(layers["a1"]["times_us"])
    text = rtc("precision", "show", bundle).out
    assert "output dB" in text
    assert "plans tried" in text


def test_candidates_that_do_not_ship_are_shown_and_fed_back(rtc, home: Path, bundle: Path) -> None:
    found = rtc("precision", "show", bundle, "--json").document
    others = [name for name in found["candidates"] if name != found["shipped"]]
    assert others  # the mix is none where its plan comes to half everywhere
    for name in others:
        shown = rtc("precision", "show", bundle, "--candidate", name, "--json").document
        plan = bundle / "latest" / f"plan-{name.replace(' ', '-')}.yaml"
        layers = yaml.safe_load(plan.read_text())["layers"]
        assert {row["name"]: row["planned"] for row in shown["layers"]} == {
            layer: decision["precision"] for layer, decision in layers.items()
        }
    recipe = {**RECIPE, "precision": {"offer": ["mix"], "plan": str(plan.relative_to(home))}}
    (home / "again.yaml").write_text(yaml.safe_dump(recipe))
    assert rtc("recipe", "check", home / "again.yaml").code == 0
    done = rtc("precision", "show", bundle, "--candidate", "tensorrt_rtx int9")
    assert done.code == 2
    assert "no such candidate was built" in done.err
    assert "(seen 'tensorrt_rtx int9'); did you mean" in done.err
    far = rtc("precision", "show", bundle, "--candidate", "nope").err
    names = far.strip().partition("there is: ")[2].split(", ")
    assert names
    assert all(far.count(name) == 1 for name in names)


def test_layers_fit_a_terminal_of_80_columns(rtc, bundle: Path, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = rtc("precision", "show", bundle).out.splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    assert len(lines) < 60  # a line a layer


def test_show_sorts_and_filters(rtc, bundle: Path) -> None:
    def names(*options: str) -> list[str]:
        rows = rtc("precision", "show", bundle, "--json", *options).document["layers"]
        return [row["name"] for row in rows]

    assert names("--layer", "a*", "--layer", "fc") == ["a1", "a1_relu", "fc"]
    snr = {
        row["name"]: row["losses"]["int8"]["output_snr_db"][0]
        for row in rtc("precision", "show", bundle, "--json").document["layers"]
        if row["losses"]
    }
    assert [name for name in names("--sort", "snr") if name in snr] == sorted(
        snr, key=snr.__getitem__
    )


def test_the_ledger_lists_every_policy(rtc, bundle: Path, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "180")
    text = rtc("precision", "show", bundle, "--residuals").out
    assert "shared-scale" in rtc("precision", "why", bundle, "join1").out
    for policy in ("keep-half", "quantise-skip", "shared-scale", "recalibrated"):
        assert policy in text
    assert "join1" in text


def test_why_tells_the_evidence(rtc, bundle: Path) -> None:
    text = rtc("precision", "why", bundle, "a1").out
    assert "KL, nats" in text
    assert "agreement" in text
    assert "because" in text


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("show", "--layer", "konv*"), "no layer matches"),
        (("show", "--sort", "snrr"), 'did you mean "snr"'),
        (("show", "--precision", "int4"), "no such precision"),
        (("why", "a11"), 'did you mean "a1"'),
    ],
)
def test_a_wrong_word_is_named(rtc, bundle: Path, command: tuple[str, ...], words: str) -> None:
    name, *rest = command
    done = rtc("precision", name, bundle, *rest)
    assert done.code == 2
    assert words in done.err


def test_diff_names_what_differs(rtc, bundle: Path, plan: Callable[..., Path]) -> None:
    given = yaml.safe_load((bundle / "latest/plan.yaml").read_text())["layers"]
    other = "int8" if given["a1"]["precision"] != "int8" else "fp32"
    changed = plan(layers={**given, "a1": {"precision": other, "because": "by hand"}})
    found = rtc("precision", "diff", bundle, changed, "--json").document
    assert [(each["name"], each["second"]) for each in found["changes"]] == [("a1", other)]
    assert found["same_model"]
    assert "by hand" in rtc("precision", "diff", bundle, changed).out
    assert rtc("precision", "diff", bundle, bundle, "--json").document["changes"] == []


def test_diff_of_no_plan(rtc, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("recipe: 1\n")
    done = rtc("precision", "diff", bundle, tmp_path / "other.yaml")
    assert done.code == 2
    assert "plan: 1" in done.err


def test_an_edited_plan_is_fed_back(rtc, home: Path, plan: Callable[..., Path]) -> None:
    given = yaml.safe_load((home / "build/blocks/rtx4060ti/latest/plan.yaml").read_text())
    layers = {**given["layers"], "b1": {"precision": "fp32", "because": "by hand"}}
    (home / "my-plan.yaml").write_text(plan(layers=layers).read_text())
    recipe = {**RECIPE, "precision": {"offer": ["mix"], "plan": "my-plan.yaml"}}
    (home / "fed.yaml").write_text(yaml.safe_dump(recipe))
    done = rtc("compile", home / "fed.yaml", "--cache", home / "store", "--json", "-q")
    assert done.code == 0, done.err
    rows = {row["name"]: row for row in done.document["results"][0]["report"]["layers"]}
    assert rows["b1"]["planned"] == "fp32"
    assert rows["b1"]["reason"].startswith("by hand")


def test_a_plan_of_another_model_is_refused(rtc, home: Path, plan: Callable[..., Path]) -> None:
    (home / "my-plan.yaml").write_text(plan(model="sha256:0").read_text())
    recipe = {**RECIPE, "precision": {"offer": ["mix"], "plan": "my-plan.yaml"}}
    (home / "fed.yaml").write_text(yaml.safe_dump(recipe))
    done = rtc("compile", home / "fed.yaml", "--cache", home / "store", "-q")
    assert done.code == 2
    assert "another model" in done.err


@pytest.mark.parametrize(
    ("budget", "seconds"), [("90", 90), ("90s", 90), ("1h30m", 5400), ("2 M", 120), ("1.5min", 90)]
)
def test_a_budget_is_a_time_as_people_write_it(budget: str, seconds: float) -> None:
    assert _seconds(budget) == seconds


@pytest.mark.parametrize("budget", ["0s", "0.2", "soon", "-3m", "3x", "999999h"])
def test_a_budget_too_small_to_do_anything(rtc, home: Path, budget: str) -> None:
    done = rtc("compile", home / "recipe.yaml", f"--budget={budget}", "-q")
    assert done.code == 2
    assert "--budget" in done.err


def test_what_changes_nothing_is_told(rtc, home: Path, plan: Callable[..., Path]) -> None:
    (home / "my-plan.yaml").write_text(plan(target="cpu").read_text())
    elsewhere = {**RECIPE, "precision": {"offer": ["fp32"], "plan": "my-plan.yaml"}}
    (home / "fed.yaml").write_text(yaml.safe_dump(elsewhere))
    done = rtc("compile", home / "fed.yaml", "--cache", home / "store", "--budget", "1h")
    assert "precision.plan changes nothing: precision.offer has no mix" in done.err
    assert "the budget changes nothing" in done.err
    elsewhere["precision"]["offer"] = ["mix"]
    elsewhere["precision"]["search"] = None
    (home / "fed.yaml").write_text(yaml.safe_dump(elsewhere))
    done = rtc("compile", home / "fed.yaml", "--cache", home / "store")
    assert "precision.plan changes nothing: it is for cpu, not for rtx4060ti" in done.err


def test_why_of_a_residual_add_is_the_ledger_for_machines_too(rtc, bundle: Path) -> None:
    found = rtc("precision", "why", bundle, "join1", "--json").document
    assert {each["policy"] for each in found["residual"]["policies"]} >= {"keep-half"}
    assert found["engine"] == "fast"
    assert rtc("precision", "why", bundle, "a1", "--json").document["residual"] is None


def test_try_estimates_for_a_device_that_is_not_here(rtc, home: Path) -> None:
    command = ("precision", "try", home / "recipe.yaml", "--cache", home / "store")
    found = rtc(*command, "--set", "*=int8", "--set", "join1=shared-scale", "--json").document
    assert found["candidate"].startswith("tensorrt_rtx")
    assert found["after"]["latency"]["value"] > 0
    assert ("join1", "shared-scale") in [(c["name"], c["second"]) for c in found["changes"]]


@pytest.mark.slow
def test_try_tells_what_a_change_does(rtc, home: Path) -> None:
    command = ("precision", "try", home / "recipe.yaml", "--target", "cpu", "--backend",
               "onnxruntime", "--cache", home / "store")  # fmt: skip
    found = rtc(*command, "--set", "a1=fp32", "--json").document
    assert ("a1", "int8", "fp32") in [
        (each["name"], each["first"], each["second"]) for each in found["changes"]
    ]
    assert found["after"]["over_float"]["value"] > 0
    assert "against float" in rtc(*command, "--set", "a1=fp32").out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("a1", "layer=precision"),
        ("a1=int4", "no such precision"),
        ("zz=fp16", "matches no layer"),
        ("join1=share-scale", 'did you mean "shared-scale"'),
        ("zz=keep-half", "matches no residual Add"),
        ("a1=int8 a1=fp16", "contradict each other on a1"),
        ("join1=quantise-both", "join1 cannot have the policy quantise-both in this plan"),
        ("b1=fp32 join1=quantise-both", "join1 cannot be pinned to quantise-both"),
    ],
)
def test_a_change_that_is_none(rtc, home: Path, change: str, words: str) -> None:
    sets = [part for each in change.split() for part in ("--set", each)]
    done = rtc("precision", "try", home / "recipe.yaml", "--target", "cpu", "--backend",
               "onnxruntime", "--cache", home / "store", *sets, "-q")  # fmt: skip
    assert done.code == 2
    assert words in done.err
