"""Stages that keep a model as it was, and stages that break it: each break is seen and named."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import small_models
from small_models import CLASSES, FEATURES, WEIGHTS, linear

from rtc.compiler.core.data import Preprocess, Split
from rtc.compiler.core.errors import InternalError, MachineError
from rtc.compiler.core.intervals import wilson
from rtc.compiler.core.passes import Bound, Bounded, Exact, Sound
from rtc.compiler.core.results import CertificateRow
from rtc.compiler.core.unit import OnnxModel, Signature, TensorSpec, TorchModel, Unit
from rtc.compiler.measure import parity

COUNT = 100
DATA = small_models.samples(COUNT)
EAGER = Unit(TorchModel("small_models:torch_linear"), small_models.signature())


def check(
    before: Unit, after: Unit, bound: Bound | None = None, data: Split = DATA, **options: int
) -> CertificateRow:
    return parity.check(before, after, bound or Exact(), data, stage="a-pass", **options)


def test_the_same_model_is_identical(capfd: pytest.CaptureFixture[str]) -> None:
    row = check(linear(), linear())
    assert row.passed
    assert row.exact
    assert (row.stage, row.measured, row.samples) == ("a-pass", "identical", COUNT)
    assert row.bound == "every element within 1e-05 or 0.0001·|x|, whichever is larger"
    assert row.before == row.after == linear().digest
    assert capfd.readouterr().out == ""  # Polygraphy would log to stdout


def test_a_difference_within_the_bound_passes_and_is_told() -> None:
    row = check(linear(), linear(WEIGHTS * np.float32(1 + 5e-5)))
    assert row.passed
    assert row.measured.startswith("at most logits[")


def test_the_elements_of_a_broken_stage_are_counted_and_the_worst_is_named() -> None:
    broken = WEIGHTS.copy()
    broken[0, 2] += 10  # column 2 of every sample
    row = check(linear(), linear(broken))
    assert not row.passed
    assert row.measured.startswith("logits[")
    assert ", 2] differs by" in row.measured
    assert row.measured.endswith(f"; {COUNT} of {COUNT * CLASSES} elements are beyond the bound")


def test_one_sample_that_differs_is_enough() -> None:
    """A threshold between the largest output and all others changes just one element."""
    outputs = DATA.inputs() @ WEIGHTS
    second, largest = np.sort(outputs.ravel())[-2:]
    sample, column = np.argwhere(outputs == largest)[0]
    clipped = linear(tail=f"Clip <max = {(second + largest) / 2:.9g}> (y)", opset=6)
    row = check(linear(opset=6), clipped)
    assert not row.passed
    assert row.measured.startswith(f"logits[{sample}, {column}] differs")
    assert f"; 1 of {COUNT * CLASSES} elements" in row.measured


def test_what_real_samples_never_touch_is_exact_too() -> None:
    """The first feature is always zero; of values in another order it is not."""
    raw = np.random.default_rng(5).uniform(1, 2, (COUNT, FEATURES)).astype(np.float32)
    raw[:, 0] = 0
    data = Split("test", raw, None, Preprocess())
    broken = WEIGHTS.copy()
    broken[0] *= 2
    row = check(linear(), linear(broken), data=data)
    assert not row.passed
    assert "of its norm on samples with values shuffled" in row.measured
    assert check(linear(), linear(broken), Bounded("disagreement", 1.0), data).passed
    assert check(linear(batch=3), linear(WEIGHTS * np.float32(1 + 1e-6), batch=3), data=data).passed


@pytest.mark.parametrize("bound", [Exact(atol=1e30), Bounded("disagreement", 1.0), Sound()])
def test_what_is_not_finite_never_passes(bound: Bound) -> None:
    row = check(linear(tail="Log(y)"), linear(tail="Log(y)"), bound)  # of negative numbers: NaN
    assert not row.passed
    assert "is not finite before this stage" in row.measured
    assert (
        "is not finite after this stage" in check(linear(), linear(tail="Log(y)"), bound).measured
    )


@pytest.mark.parametrize("bound", [Exact(), Bounded("disagreement", 1.0)])
@pytest.mark.parametrize("samples", [0, 256])
def test_no_samples_never_pass(bound: Bound, samples: int) -> None:
    row = check(linear(), linear(), bound, DATA if not samples else DATA.head(0), samples=samples)
    assert (row.passed, row.measured, row.samples) == (False, "there are no samples to compare", 0)


def test_a_model_that_does_not_run_fails_with_the_runtimes_reason() -> None:
    broken = replace(linear(), model=OnnxModel(b"not a model"))
    row = check(linear(), broken)
    assert not row.passed
    assert "the model after this stage does not run" in row.measured
    assert "\n" not in row.measured


@pytest.mark.parametrize(
    ("spec", "seen"),
    [
        (TensorSpec("other", "float32", ("batch", CLASSES)), "other: float32[batch, 4]"),
        (TensorSpec("logits", "float16", ("batch", CLASSES)), "logits: float16[batch, 4]"),
        (TensorSpec("logits", "float32", ("batch", 5)), "logits: float32[batch, 5]"),
        (TensorSpec("logits", "float32", (1, CLASSES)), "logits: float32[1, 4]"),
    ],
)
def test_a_changed_signature_fails(spec: TensorSpec, seen: str) -> None:
    changed = replace(linear(), signature=Signature(linear().signature.inputs, (spec,)))
    row = check(linear(), changed)
    assert not row.passed
    assert row.measured == f"the outputs changed from logits: float32[batch, 4] to {seen}"


def test_another_name_for_a_dynamic_dimension_is_no_change() -> None:
    renamed = replace(linear(), signature=small_models.signature("N"))
    assert check(linear(), renamed).passed


def test_the_last_batch_of_a_fixed_one_is_filled_up() -> None:
    assert COUNT % 16
    row = check(linear(batch=16), linear(batch=16))
    assert row.passed
    assert row.samples == COUNT


def test_samples_are_at_most_those_asked_for() -> None:
    assert check(linear(), linear(), samples=30, batch=8).samples == 30


def test_an_export_is_compared_with_eager_pytorch_and_may_rename_outputs() -> None:
    named = replace(EAGER, signature=small_models.signature(output="scores"))
    assert check(named, linear()).passed
    biased = replace(EAGER, model=TorchModel("small_models:torch_linear", {"bias": 0.01}))
    assert not check(biased, linear()).passed


def test_a_bound_on_disagreement() -> None:
    swapped = WEIGHTS[:, [1, 0, 2, 3]]
    share = float(np.mean((DATA.inputs() @ swapped).argmax(axis=1) != DATA.labels))
    row = check(linear(), linear(swapped), Bounded("disagreement", share))
    assert row.passed
    assert not row.exact
    found = wilson(round(share * COUNT), COUNT)
    assert row.measured == (
        f"changes for {share * COUNT:.0f} of {COUNT} samples ({100 * share:.2f} %;"
        f" 95 % interval {100 * found.low:.2f} to {100 * found.high:.2f})"
    )
    for limit, kept in ((share - 0.01, True), (found.low + 1e-9, True), (found.low - 1e-9, False)):
        row = check(linear(), linear(swapped), Bounded("disagreement", limit))
        assert row.passed is kept  # a limit is broken where chance cannot be the reason


def test_a_share_that_is_the_limit_passes() -> None:
    """In floating point 1 - 0.98 > 0.02."""
    before = np.tile([1.0, 0.0], (COUNT, 1))
    for changed in range(COUNT + 1):
        after = before.copy()
        after[:changed] = [0.0, 1.0]
        limit = Bounded("disagreement", changed / COUNT)
        assert parity._bounded(before, after, limit, DATA)[0], changed


def test_a_bound_on_accuracy() -> None:
    swapped = WEIGHTS[:, [1, 0, 2, 3]]  # right for the two classes that stay, at most
    fail = check(linear(), linear(swapped), Bounded("top1_drop", 0.3))
    assert not fail.passed
    assert fail.bound == "top-1 accuracy drops by at most 30 points"
    assert "points (95 % interval" in fail.measured
    gain = check(linear(swapped), linear(), Bounded("top1_drop", 0.0))
    assert gain.passed
    assert gain.measured == fail.measured.replace("drops", "rises")


def test_accuracy_without_labels_fails() -> None:
    row = check(linear(), linear(), Bounded("top1_drop", 1.0), replace(DATA, labels=None))
    assert (row.passed, row.measured[:28]) == (False, "top-1 accuracy needs labels,")


def test_an_unknown_metric_is_a_bug() -> None:
    with pytest.raises(InternalError, match='no metric is named "beauty"'):
        check(linear(), linear(), Bounded("beauty", 1.0))


def test_a_missing_library_is_no_failure_of_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MachineError, match="torch"):
        check(EAGER, linear())


@pytest.mark.parametrize(
    ("weights", "passed"),
    [
        (WEIGHTS, True),
        (WEIGHTS + np.random.default_rng(0).normal(0, 0.4, WEIGHTS.shape), True),
        (WEIGHTS + np.float32(100), True),  # far off, and every class is the same
        (WEIGHTS * 0, False),  # one class for all
        (-WEIGHTS, False),  # fewer than by chance
    ],
    ids=["the same", "a third", "every class", "constant", "opposite"],
)
def test_what_is_sound_is_no_guess(weights: np.ndarray, passed: bool) -> None:
    row = check(linear(), linear(weights.astype(np.float32)), Sound())
    assert row.passed is passed
    assert row.bound == "outputs are finite and no guesses; the gates say how far they may change"
    assert "samples (" in row.measured
    assert "by chance" in row.measured


def test_many_changed_classes_are_for_the_gates_to_judge() -> None:
    noise = np.random.default_rng(0).normal(0, 0.8, WEIGHTS.shape).astype(np.float32)
    row = check(linear(), linear(WEIGHTS + noise), Sound())
    changed = int(row.measured.split("changes for ")[1].split(" of")[0])
    assert changed > 20  # of a hundred
    assert row.passed


def test_the_layer_that_makes_numbers_other_than_finite_is_named() -> None:
    import onnx

    model = onnx.load_model_from_string(linear(tail="Log(y)").onnx.proto)
    for node, name in zip(model.graph.node, ("product", "logarithm"), strict=True):
        node.name = name
    row = check(linear(), replace(linear(), model=OnnxModel(model.SerializeToString())), Sound())
    assert row.measured.endswith("after this stage; logarithm (Log) is the first that is not")
