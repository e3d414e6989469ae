"""Where graph passes changed what a model computes, accuracy is told against what came in."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from check_pass import parse
from rich.console import Console

from rtc.compiler import pipeline
from rtc.compiler.building.builder import Builder
from rtc.compiler.core.data import Preprocess, Split
from rtc.compiler.core.progress import Nobody
from rtc.compiler.core.results import FLOAT_MODEL, INCOMING_MODEL, SHIPPED_ENGINE
from rtc.compiler.execution.stages import Stages
from rtc.compiler.frontend.float_model import make_front
from rtc.compiler.frontend.samples import splits_of
from rtc.compiler.lowering.job import Job
from rtc.compiler.measure.reference import reference_logits
from rtc.compiler.recipe.schema import Recipe, load_recipe
from rtc.compiler.report import terminal
from rtc.compiler.search.parts import network
from rtc.compiler.search.trial import Lab
from rtc.compiler.storage.store import Store
from rtc.targets import loader

CPU = "name: one\nvendor: any\nkind: cpu\nbackends: [onnxruntime]\nnotes: one\nsource: here\n"


def written(folder: Path, equalize: dict[str, object]) -> Recipe:
    """The recipe of a model whose ReLU6 cuts most of what it sees; labels are its own classes."""
    random = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    unit = parse(
        """g (float[N,6] x) => (float[N,4] y) {
        [one] a = Gemm(x, w)
        [six] r = Clip(a, low, high)
        [two] y = Gemm(r, v)
    }""",
        w=normal(6, 16) * np.float32(30) * np.logspace(-1, 0, 16, dtype=np.float32),
        low=np.float32(0),
        high=np.float32(6),
        v=normal(16, 4),
    )
    (folder / "model.onnx").write_bytes(unit.onnx.proto)
    x = normal(400, 6)
    classes = reference_logits(unit.onnx.proto, Split("all", x, None, Preprocess())).argmax(axis=1)
    np.savez(folder / "samples.npz", x=x, y=classes)
    (folder / "cpu.yaml").write_text(CPU)
    text = {
        "recipe": 1,
        "name": "clipped",
        "version": "1.0.0",
        "source": {"onnx": "model.onnx"},
        "data": {
            "npz": "samples.npz",
            "classes": 4,
            "split": {"train": 0, "calibration": 0.4, "test": 0.6},
        },
        "passes": ["fold-constants", {"equalize": equalize}],
        "precision": {"offer": ["fp32"], "search": None},
        "batch": 4,
        "targets": ["cpu.yaml"],
        "measure": {"seconds": 0.1, "threads": 1},
        "gates": {"top1_drop": 0.05, "parity": None, "chance": None},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(text))
    return load_recipe(folder / "recipe.yaml")


def test_a_drop_that_a_pass_made_is_told_and_fails_the_gate(tmp_path: Path) -> None:
    lavish = {"relu6": "replace", "max_disagreement": 1.0}
    store = Store(tmp_path / "store")
    (found,) = pipeline.compile(written(tmp_path, lavish), out=tmp_path / "out", store=store)
    report = found.report
    first, floats, engine = map(report.accuracy_of, (INCOMING_MODEL, FLOAT_MODEL, SHIPPED_ENGINE))
    assert first is not None
    assert floats is not None
    assert engine is not None
    assert first.top1.value == 1.0  # the labels are its own classes
    assert floats.top1.value == engine.top1.value < 0.9
    assert first.agreement is not None
    assert first.agreement.value == floats.top1.value
    assert not found.passed
    (gate,) = report.gates
    drop = 100 * (1 - engine.top1.value)
    assert gate.asked == "drop ≤ 5.00 pt from the model that came in"
    assert gate.found == f"{drop:+.2f} pt (100.00 → {100 - drop:.2f} %)"
    assert any(
        note.startswith(
            "Passes changed what the model that came in computes: top-1 100.00 % became"
        )
        for note in report.doubts
    )
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(terminal.summary([report], [found.bundle]))
    assert f"model that came in 100.00 %, −{drop:.2f} pt" in console.export_text()
    stages = [row.stage for row in report.certificates if row.stage.startswith("equalize")]
    assert stages == ["equalize: the change that it states", "equalize"]


@pytest.mark.parametrize("labelled", [True, False])
def test_a_trial_counts_the_drop_from_the_model_that_came_in(
    tmp_path: Path, labelled: bool
) -> None:
    """The labels are its classes: what changes its class is what is lost, with or without them."""
    recipe = written(tmp_path, {"relu6": "replace", "max_disagreement": 1.0})
    data, stages = splits_of(recipe), Stages(Store(tmp_path / "store"), Nobody())
    front = make_front(recipe, data, stages)
    job = Job.of(recipe, data, front, loader.profile("cpu.yaml", tmp_path), stages)
    builder = Builder.of(job, loader.backend("onnxruntime"))
    samples = data.calibration if labelled else replace(data.calibration, labels=None)
    plan = builder.writer.mix({})
    with Lab(builder, network(front.model), samples, plan) as lab:
        outcome, (lost, quality) = lab.trial(plan), lab.of_float()
    first = reference_logits(front.incoming.onnx.proto, samples).argmax(axis=1)
    floats = reference_logits(front.model.onnx.proto, samples).argmax(axis=1)
    changed = float(np.mean(first != floats))
    assert changed > 0.1
    assert outcome.agreement.value == 1.0
    assert outcome.lost == pytest.approx(changed)
    assert lost == pytest.approx(changed)
    if labelled:
        assert outcome.top1_drop.value == pytest.approx(changed)
        assert outcome.quality.top1.value == quality.top1.value == pytest.approx(1 - changed)
    else:
        assert (outcome.top1_drop, outcome.quality, quality) == (None, None, None)


@pytest.mark.parametrize("equalize", [{}, {"relu6": "replace", "max_disagreement": 0.0}])
def test_where_nothing_but_weights_changed_the_float_model_is_the_one_that_came_in(
    tmp_path: Path, equalize: dict[str, object]
) -> None:
    recipe = written(tmp_path, equalize)
    front = make_front(recipe, splits_of(recipe), Stages(Store(tmp_path / "store"), Nobody()))
    assert front.incoming is None
