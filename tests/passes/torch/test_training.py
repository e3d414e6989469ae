from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from digits import STUDENT, Untested, few_digits, lenet

from rtc.compiler.core.errors import DataError, GateError
from rtc.compiler.core.passes import PassContext
from rtc.compiler.core.unit import Unit
from rtc.passes.torch.torch_module import build, pack
from rtc.passes.torch.training import Schedule, evaluate, fit, shuffled

SCHEDULE = Schedule(epochs=2, lr=0.05)


@pytest.fixture(scope="module")
def student() -> tuple[Unit, PassContext]:
    return lenet(few_digits(), STUDENT)


def weights_after(unit: Unit, ctx: PassContext, schedule: Schedule = SCHEDULE) -> bytes:
    module = build(unit.torch)
    fit(module, schedule, ctx, where="test")
    return pack(module, unit.torch).weights


@pytest.mark.parametrize(
    ("decay", "factors"),
    [
        ("constant", [1, 1, 1, 1]),
        ("step", [1, 1, 0.1, 0.01]),
        ("cosine", [1, 0.853553, 0.5, 0.146447]),
    ],
)
def test_decay_of_the_learning_rate(decay: str, factors: list[float]) -> None:
    schedule = Schedule(decay=decay)
    assert [schedule.factor(p) for p in (0, 0.25, 0.5, 0.75)] == pytest.approx(factors, abs=1e-6)


def test_weights_do_not_depend_on_the_process(student: tuple[Unit, PassContext]) -> None:
    unit, ctx = student
    first = weights_after(unit, ctx)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        torch.manual_seed(99)
        state = torch.random.get_rng_state()
        assert weights_after(unit, ctx) == first
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()
    assert weights_after(unit, replace(ctx, seed=ctx.seed + 1)) != first


def test_bfloat16_is_for_training_alone(student: tuple[Unit, PassContext]) -> None:
    unit, ctx = student
    module, schedule = build(unit.torch), replace(SCHEDULE, epochs=1)
    fit(module, replace(schedule, compute="bf16"), ctx, where="test")
    packed = pack(module, unit.torch)
    assert packed.weights != weights_after(unit, ctx, schedule)
    inputs = torch.from_numpy(ctx.data.test.inputs())
    with torch.no_grad():
        assert torch.equal(module(inputs), build(packed)(inputs))


def test_a_softmax_at_the_end_changes_neither_training_nor_scores(
    student: tuple[Unit, PassContext],
) -> None:
    unit, ctx = student
    plain = build(unit.torch)
    ending = torch.nn.Sequential(build(unit.torch), torch.nn.Softmax(dim=1))
    one, other = (fit(each, SCHEDULE, ctx, where="test") for each in (plain, ending))
    assert other.loss == pytest.approx(one.loss, rel=1e-3)
    test = ctx.data.test
    assert evaluate(ending, test).loss == pytest.approx(evaluate(plain, test).loss, rel=1e-3)


def test_axes_of_one_behind_the_classes_change_neither_training_nor_scores(
    student: tuple[Unit, PassContext],
) -> None:
    unit, ctx = student
    plain = build(unit.torch)
    ending = torch.nn.Sequential(build(unit.torch), torch.nn.Unflatten(1, (10, 1, 1)))
    one, other = (fit(each, SCHEDULE, ctx, where="test") for each in (plain, ending))
    assert other.loss == pytest.approx(one.loss, rel=1e-3)
    test = ctx.data.test
    assert evaluate(ending, test).top1 == pytest.approx(evaluate(plain, test).top1, abs=0.01)


def test_history_is_of_validation_samples_only(student: tuple[Unit, PassContext]) -> None:
    unit, ctx = student
    module, said = build(unit.torch), []
    watched = replace(ctx, data=Untested(ctx.data), progress=lambda *told: said.append(told))
    history = fit(module, SCHEDULE, watched, where="test")
    final = evaluate(module, ctx.data.calibration)
    assert (history.accuracy[-1], history.loss[-1]) == (final.top1, final.loss)
    assert len(history.accuracy) == 2
    assert not module.training
    assert said[-1] == (2, 2, f"epoch 2/2 · {final} · loss {final.loss:.3f}")


def test_evaluation_agrees_with_numpy(student: tuple[Unit, PassContext]) -> None:
    unit, ctx = student
    split, module = ctx.data.test, build(unit.torch)
    with torch.no_grad():
        logits = module(torch.from_numpy(split.inputs())).double().numpy()
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    score = evaluate(module, split)
    assert score.top1 == pytest.approx((logits.argmax(axis=1) == split.labels).mean())
    assert score.loss == pytest.approx(
        -log_probabilities[np.arange(len(split)), split.labels].mean(), abs=1e-6
    )
    assert score.samples == len(split)


def test_an_epoch_takes_every_sample_once(student: tuple[Unit, PassContext]) -> None:
    split = student[1].data.test
    batches = list(shuffled(split, 64, torch.device("cpu")))
    assert [len(labels) for _, labels in batches] == [64, 64, 64, 8]
    seen = np.concatenate([inputs.numpy() for inputs, _ in batches])
    assert sorted(x.tobytes() for x in seen) == sorted(x.tobytes() for x in split.inputs())


def test_divergence_names_the_pass_and_the_option(student: tuple[Unit, PassContext]) -> None:
    with pytest.raises(GateError) as diverged:
        weights_after(*student, Schedule(epochs=3, lr=1e6))
    assert diverged.value.id == "diverged"
    assert str(diverged.value).startswith("test: training diverged in epoch 1 (seen a loss of nan)")
    assert "lower lr (it is 1e+06)" in diverged.value.fix


def test_samples_without_labels_cannot_be_trained_on(student: tuple[Unit, PassContext]) -> None:
    unit, ctx = student
    unlabelled = Untested(ctx.data)
    unlabelled.calibration = replace(ctx.data.calibration, labels=None)
    with pytest.raises(DataError, match="labelled"):
        weights_after(unit, replace(ctx, data=unlabelled))
