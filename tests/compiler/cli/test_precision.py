"""`rtc precision culprits` on a small model with an outlier channel between its first layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from check_pass import parse

from rtc.targets import loader

RECIPE = """\
recipe: 1
name: small
version: 1.0.0
source: {onnx: model.onnx}
data: {npz: samples.npz, classes: 6, split: {train: 0.0, calibration: 0.25, test: 0.75}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    weights = {
        f"w{i}": draw.normal(size=shape).astype(np.float32) / 4
        for i, shape in enumerate(((16, 16), (16, 16), (16, 6)))
    }
    weights["w0"][:, 3] *= 1000
    weights["w1"][3] /= 1000
    unit = parse(
        """g (float[N,16] x) => (float[N,6] y) {
        [first] a = Gemm(x, w0, b0)
        [act1] r = Relu(a)
        [second] b = Gemm(r, w1, b1)
        [act2] s = Relu(b)
        [third] y = Gemm(s, w2, b2)
    }""",
        b0=np.zeros(16, np.float32),
        b1=np.zeros(16, np.float32),
        b2=np.zeros(6, np.float32),
        **weights,
    )
    (tmp_path / "model.onnx").write_bytes(unit.onnx.proto)
    x = draw.normal(size=(400, 16)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", x=x, y=np.arange(400) % 6)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


ASK = ("precision", "culprits", "recipe.yaml", "--at-least", 0.9, "--quiet")


def test_culprits_are_named_and_their_patch_mends_the_candidate(rtc, recipe) -> None:
    found = rtc(*ASK, "--backend", "onnxruntime", "--json", "--out", "patch.yaml")
    assert found.code == 0, found.err
    document = found.document
    assert [each["layer"] for each in document["layers"]] == ["first", "second"]
    assert document["before"]["value"] < 0.9 <= document["after"]["value"]
    assert document["before"]["kind"] == "measured"
    assert document["before"]["samples"] == 256
    assert document["before"]["low"] < document["before"]["value"] < document["before"]["high"]
    assert document["surely_broken"]
    patch = (recipe.parent / "patch.yaml").read_text()
    assert yaml.safe_load(patch) == {"precision": {"pin": {"first": "fp32", "second": "fp32"}}}
    recipe.write_text(RECIPE + patch)
    mended = rtc(*ASK, "--backend", "onnxruntime", "--json", "--out", "none.yaml")
    assert mended.document["layers"] == []
    assert mended.document["before"]["value"] == document["after"]["value"]
    assert not (recipe.parent / "none.yaml").exists()


def test_a_person_sees_which_layers_and_what_to_do(rtc, recipe) -> None:
    found = rtc(*ASK)
    assert found.code == 0, found.err
    assert "for cpu: agreement with float ≥ 90.00 % does not hold" in found.out
    assert "2 of 3 layers break it; with them put back it is" in found.out
    back = "half" if loader.backend("openvino").scheme(loader.profile("cpu")).half else "fp32"
    assert f"merge this into the recipe:\nprecision:\n  pin:\n    first: {back}\n" in found.out


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--metric", "snr", "--at-least", -3), "output SNR ≥ -3.00 dB holds as planned"),
        (("--metric", "top1", "--at-most", 0.9), "drop of top-1 ≤ 90.00 % holds as planned"),
    ],
)
def test_a_metric_that_holds_says_so(rtc, recipe, options, text) -> None:
    found = rtc("precision", "culprits", "recipe.yaml", "--quiet", *options)
    assert found.code == 0, found.err
    assert text in found.out


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (("--backend", "onnxruntim"), 2, 'did you mean "onnxruntime"?'),
        (("--variant", "int7"), 2, "Invalid value for '--variant'"),
        (("--variant", "fp32"), 2, "there is no layer to put back"),
        (("--metric", "top1", "--at-least", 0.5), 2, "expected --at-most"),
        (("--at-least", 98), 2, "agreement is a fraction (seen 98, expected 0 to 1)"),
        (("--samples", 0), 2, "Invalid value for '--samples'"),
        (("--target", "rtx4060ti"), 5, "does not run for rtx4060ti here"),
        (("--metric", "snr", "--at-least", 200), 8, "the fault is not one of precision"),
        (("--at-least", 0.9, "--out", "not/there.yaml"), 5, "no file can be written there"),
    ],
)
def test_bad_input(rtc, recipe, options, code, text) -> None:
    found = rtc("precision", "culprits", "recipe.yaml", "--quiet", *options)
    assert found.code == code
    assert text in found.err
    assert found.err.count("\n") == 1
