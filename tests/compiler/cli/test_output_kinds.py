"""One model with its distribution in every form: what is told of it is the same."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

RECIPE = """\
recipe: 1
name: tiny
version: 1.0.0
source: {onnx: model.onnx}
data: {npz: samples.npz, classes: 3, split: {train: 0.0, calibration: 0.3, test: 0.7}}
precision: {offer: [fp32]}
batch: 4
measure: {seconds: 0.1, threads: 1}
"""
ENDS = {
    "logits": "y = Identity(z)",
    "log-probabilities": "y = LogSoftmax(z)",
    "probabilities": "e = Exp(z)  s = ReduceSum(e, one)  p = Div(e, s)  y = Reshape(p, shape)",
}


@pytest.fixture
def problem(tmp_path):
    """Samples, their labels, and the probabilities of the model that `model.onnx` becomes."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(80, 4)).astype(np.float32)
    w = draw.normal(size=(4, 3)).astype(np.float32)
    z = x @ w
    noisy = (z + draw.normal(size=z.shape)).argmax(axis=1)
    np.savez(tmp_path / "samples.npz", x=x, y=noisy)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path, x, w, np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)


def write(folder, w, end: str) -> None:
    text = '<ir_version: 9, opset_import: ["" : 17]> m (float[n,4] x) => (float[n,3] y) {'
    model = onnx.parser.parse_model(f"{text} z = MatMul(x, w) {end} }}")
    constants = {"w": w, "one": np.array([1]), "shape": np.array([-1, 3])}
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(v, n) for n, v in constants.items() if n in used
    )
    onnx.save(model, folder / "model.onnx")


def test_loss_and_probabilities_are_those_of_the_distribution(rtc, problem) -> None:
    folder, x, w, p = problem
    np.save(folder / "x.npy", x[:5])
    losses = {}
    for kind, end in ENDS.items():
        write(folder, w, end)
        done = rtc("compile", "recipe.yaml", "--target", "cpu", "--json", "--quiet")
        assert done.code == 0, done.err
        (result,) = json.loads(done.out)["results"]
        losses[kind] = {
            row["subject"]: row["loss"]["value"] for row in result["report"]["accuracy"]
        }

        told = rtc("run", result["bundle"], "-i", "x.npy", "--top", "3", "--json").document
        assert told["gives"] == kind
        for sample, row in enumerate(told["top"]):
            assert {each["class"]: each["probability"] for each in row} == pytest.approx(
                dict(enumerate(p[sample])), abs=1e-5
            )
        again = rtc("eval", result["bundle"], "--recipe", "recipe.yaml", "--quiet", "--json")
        row = again.document["accuracy"][0]
        assert row["loss"]["value"] == pytest.approx(losses[kind]["float model"], abs=1e-6)
    for found in losses.values():
        assert found == pytest.approx(losses["logits"], abs=1e-5)
