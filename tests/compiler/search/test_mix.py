"""Searches on real runtimes; the network is small, so each trial takes a second or two."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from check_pass import parse
from residual_nets import blocks

from rtc.compiler.building.builder import Builder
from rtc.compiler.core.errors import DataError, ModelError, RecipeError
from rtc.compiler.core.evidence import Measured
from rtc.compiler.core.precision import Precision, ResidualPolicy, Variant
from rtc.compiler.core.progress import Nobody
from rtc.compiler.execution.stages import Stages
from rtc.compiler.frontend.float_model import make_front
from rtc.compiler.frontend.samples import splits_of
from rtc.compiler.lowering.job import Job
from rtc.compiler.lowering.plan_writer import PlanWriter
from rtc.compiler.measure.reference import reference_logits
from rtc.compiler.recipe.schema import load_recipe
from rtc.compiler.search.evidence import evidence_of
from rtc.compiler.search.mix import decide, decided
from rtc.compiler.storage.store import Store
from rtc.targets import loader

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
    "batch": 4,
    "gates": {"top1_drop": 0.2, "parity": 0.8},
}


class Ear(Nobody):
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.ran: list[str] = []

    def warned(self, text: str) -> None:
        self.warnings.append(text)

    def finished(self, stage: str, seconds: float, found: str, cached: bool) -> None:
        if not cached:
            self.ran.append(stage)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("blocks")
    unit = blocks()
    (home / "model.onnx").write_bytes(unit.onnx.proto)
    x = np.random.default_rng(0).normal(size=(160, 3, 12, 12)).astype(np.float32)
    from rtc.compiler.core.data import Preprocess, Split

    y = reference_logits(unit.onnx.proto, Split("all", x, None, Preprocess())).argmax(axis=1)
    np.savez(home / "samples.npz", x=x, y=y)
    return home


def opened(folder: Path, target: str = "rtx4060ti", **changes: object) -> tuple[Job, Ear]:
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, **changes}))
    recipe = load_recipe(folder / "recipe.yaml")
    ear = Ear()
    stages = Stages(Store(folder / "store"), ear)
    data = splits_of(recipe)
    front = make_front(recipe, data, stages)
    return Job.of(recipe, data, front, loader.profile(target), stages), ear


def search(
    folder: Path, target: str, runtime: str, seconds: float | None = 900.0, **changes: object
):
    job, ear = opened(folder, target, **changes)
    options = job.recipe.precision.search.model_copy(update={"seconds": seconds})
    return decide(Builder.of(job, loader.backend(runtime)), options), ear


@pytest.mark.slow
def test_a_search_on_a_cpu_is_measured_and_resumed(folder: Path) -> None:
    found, ear = search(folder, "cpu", "onnxruntime")
    row = found.row
    best = next(trial for trial in row.trials if trial.state == "best")
    assert row.measured
    assert isinstance(best.latency, Measured)
    passed = [trial for trial in row.trials if trial.state != "refused"]
    assert best.over_float[0] >= max(trial.over_float[0] for trial in passed) / 1.011
    assert {loss.layer for loss in row.losses} == {"stem", "a1", "b1", "a2", "b2", "fc"}
    because = found.plan.layers["a1"].because
    assert re.fullmatch(
        r"[\d.]+ dB \([\d.]+ – [\d.]+\) at the output in int8, 64 samples;"
        r" [\d.,]+ µs fp32, [\d.,]+ µs int8 \(measured\)",
        because,
    )
    assert row.ended
    tried = [stage for stage in ear.ran if stage == "trial"]
    assert len(tried) == len(row.trials)
    again, ear = search(folder, "cpu", "onnxruntime")
    assert not [stage for stage in ear.ran if stage == "trial"]
    assert again.plan == found.plan


def test_a_search_off_the_device_goes_by_the_built_plans(folder: Path) -> None:
    found, ear = search(folder, "rtx4060ti", "tensorrt_rtx")
    row = found.row
    assert not ear.warnings
    assert not row.measured
    assert all(trial.over_float is None for trial in row.trials)
    names = [trial.name for trial in row.trials]
    assert names[0] == "float"
    assert any(name.startswith("assignment") for name in names)
    best = next(trial for trial in row.trials if trial.state == "best")
    least = min(trial.latency.value for trial in row.trials if trial.state != "refused")
    assert best.latency.value <= 1.01 * least
    assert found.plan.default is Precision.HALF
    (line, _) = row.ledger
    assert line.add == "join1"
    assert {each.policy for each in line.policies} >= {"keep-half", "quantise-skip", "recalibrated"}
    assert all(each.time is not None for each in line.policies)


def test_pins_hold_in_every_trial(folder: Path) -> None:
    pins = {"pin": {"a1": "fp32", "b2": "int8"}, "residuals": {"join1": "keep-half"}}
    found, _ = search(folder, "rtx4060ti", "tensorrt_rtx", precision=pins)
    assert found.plan.precision_of("a1") is Precision.FP32
    assert found.plan.precision_of("b2") is Precision.INT8
    assert found.plan.residual_of("join1") is ResidualPolicy.KEEP_HALF
    assert found.plan.layers["a1"].pinned


def test_a_pinned_policy_binds_the_layers_that_it_needs(folder: Path) -> None:
    policy = ResidualPolicy.QUANTISE_BOTH
    pins = {"residuals": {"join1": policy.value}}
    found, _ = search(folder, "rtx4060ti", "tensorrt_rtx", precision=pins)
    assert found.plan.residual_of("join1") is policy
    assert found.plan.residuals["join1"].pinned
    assert found.plan.precision_of("b1") is Precision.INT8
    assert found.plan.precision_of("stem") is Precision.INT8  # where the skip begins


def test_a_search_that_was_stopped_goes_on_where_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rtc.compiler.search.trial import Lab

    tried, whole = [], Lab._tried

    def until_the_third(lab: Lab, plan: object) -> object:
        tried.append(plan)
        if len(tried) == 3:
            raise KeyboardInterrupt
        return whole(lab, plan)

    seed = {"seed": 3}  # nothing of another test is in the store
    with monkeypatch.context() as patch:
        patch.setattr(Lab, "_tried", until_the_third)
        with pytest.raises(KeyboardInterrupt):
            search(folder, "rtx4060ti", "tensorrt_rtx", **seed)
    monkeypatch.setattr(Lab, "_tried", lambda lab, plan: again.append(plan) or whole(lab, plan))
    again: list[object] = []
    found, _ = search(folder, "rtx4060ti", "tensorrt_rtx", **seed)
    assert tried[0] not in again
    assert tried[1] not in again
    assert again[0] == tried[2]
    assert len(again) + 2 == len(found.row.trials)


def test_a_budget_that_ends_before_any_plan_was_tried(folder: Path) -> None:
    found, ear = search(folder, "rtx4060ti", "tensorrt_rtx", seconds=1e-6)
    assert "--budget" in ear.warnings[0]
    assert [trial.name for trial in found.row.trials] == ["float"]
    assert "≥" in found.plan.layers["a1"].because or "dB" in found.plan.layers["a1"].because


def test_without_a_budget_a_few_plans_are_tried_however_long_they_take(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rtc.compiler.search.mix._SECONDS", 1e-6)
    found, ear = search(folder, "rtx4060ti", "tensorrt_rtx", seconds=None)
    assert not ear.warnings
    assert [trial.name for trial in found.row.trials] == ["float", "all fp32", "all int8"]


def test_a_search_for_accuracy_needs_a_latency_to_keep_within(folder: Path) -> None:
    with pytest.raises(RecipeError, match="latency_ms"):
        search(folder, "cpu", "onnxruntime", precision={"search": {"objective": "accuracy"}})


def test_dead_channels_are_told_of_and_do_no_harm(folder: Path) -> None:
    import onnx

    model = onnx.load(folder / "model.onnx")
    weights = next(each for each in model.graph.initializer if each.name == "wa1")
    dead = onnx.numpy_helper.to_array(weights).copy()
    dead[[2, 5]] = 0
    weights.CopyFrom(onnx.numpy_helper.from_array(dead, "wa1"))
    (folder / "dead.onnx").write_bytes(model.SerializeToString())
    found, ear = search(
        folder, "rtx4060ti", "tensorrt_rtx", seconds=1e-6, source={"onnx": "dead.onnx"}
    )
    assert "a1: 2 output channels are dead: all their weights are zero" in ear.warnings
    assert found.plan.layers["a1"].snr_db > 20


def test_a_layer_whose_values_are_not_finite_is_named(folder: Path) -> None:
    import onnx

    model = onnx.load(folder / "model.onnx")
    for name in ("wa1", "wb1"):  # two finite weights whose product is not
        weights = next(each for each in model.graph.initializer if each.name == name)
        huge = np.full_like(onnx.numpy_helper.to_array(weights), 1e30)
        weights.CopyFrom(onnx.numpy_helper.from_array(huge, name))
    (folder / "broken.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(DataError, match="b1"):
        search(folder, "cpu", "onnxruntime", source={"onnx": "broken.onnx"})


def test_a_search_that_fails_leaves_the_rules_mix_and_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ModelError("no evidence", where="layer a1")

    monkeypatch.setattr("rtc.compiler.search.mix.evidence_of", fails)
    job, ear = opened(folder)
    builder = Builder.of(job, loader.backend("tensorrt_rtx"))
    found = decided(builder, job.recipe.precision.search)
    assert found.plan == builder.writer.plan(Variant.MIX)
    assert not found.plan.is_float
    assert found.row.failed == "layer a1: no evidence"
    assert ear.warnings == [
        "the search for tensorrt_rtx mix failed, its plan is the rules': layer a1: no evidence"
    ]


def test_an_operator_without_a_gradient_is_named_and_the_exact_engine_used(folder: Path) -> None:
    unit = parse(
        """g (float[N,3,12,12] x) => (float[N,10] y) {
        [stem] c = Conv<strides = [4,4]>(x, w)
        [normal] m = LRN<size = 3>(c)
        [flat] f = Flatten(m)
        [fc] y = MatMul(f, v)
    }""",
        w=np.random.default_rng(0).normal(size=(16, 3, 4, 4)).astype(np.float32),
        v=np.random.default_rng(1).normal(size=(144, 10)).astype(np.float32),
    )
    (folder / "normal.onnx").write_bytes(unit.onnx.proto)
    job, ear = opened(folder, source={"onnx": "normal.onnx"})
    writer = PlanWriter(job, loader.backend("onnxruntime"))
    found = evidence_of(writer, job.context.data.calibration.head(8))
    assert found.engine == "exact"
    (warning,) = ear.warnings
    assert "knows no gradient of LRN, so the exact one is used (layer normal)" in warning
