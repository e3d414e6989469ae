from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from check_pass import check_pass
from digits import STUDENT, TEACHER, few_digits, lenet
from safetensors.torch import load
from torch.nn import functional

from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.outputs import OutputKind
from rtc.compiler.core.passes import PassContext
from rtc.compiler.core.unit import TorchModel, Unit
from rtc.passes.torch.distill import Distill, choose
from rtc.passes.torch.distillation import _soft_loss as soft_loss
from rtc.passes.torch.distillation import hint_loss
from rtc.passes.torch.torch_module import build, need
from rtc.passes.torch.train import Train
from rtc.passes.torch.training import Score

BRIEFLY: dict[str, Any] = {"student": STUDENT, "epochs": 1, "batch": 32}


@pytest.fixture(scope="module", autouse=True)
def _modelopt() -> None:
    """Imported as the pass does: what modelopt says meanwhile is not for the tests that begin."""
    need("modelopt.torch.distill")


@pytest.fixture(scope="module")
def teacher() -> tuple[Unit, PassContext]:
    unit, ctx = lenet(few_digits(), TEACHER)
    return Train(epochs=4, batch=16).apply(unit, ctx).unit, ctx


def test_student_and_control_are_compared_and_one_goes_on(
    teacher: tuple[Unit, PassContext],
) -> None:
    unit, ctx = teacher
    step = Distill(student=STUDENT, epochs=4, batch=16, lr=0.02, max_drop=0.5)
    result = check_pass(step, unit, ctx, idempotent=False, samples=200)
    details = result.details
    assert [curve["subject"] for curve in details["curves"]] == ["student", "control"]
    assert all(len(curve["accuracy"]) == 4 for curve in details["curves"])
    assert details["teacher"]["parameters"] == 61_706
    assert details["teacher"]["training_seconds"] is None
    assert details["student"]["parameters"] == details["control"]["parameters"] == 11_246
    scores = {name: details[name]["validation"]["top1"] for name in ("student", "control")}
    assert scores[details["kept"]] == max(scores.values())
    assert result.unit.torch.factory == STUDENT
    assert details["because"] in result.summary
    other = "control" if details["kept"] == "student" else "student"
    assert replace(step, keep=other).apply(unit, ctx).unit.digest != result.unit.digest


def test_without_soft_labels_the_student_is_the_control(teacher: tuple[Unit, PassContext]) -> None:
    unit, ctx = teacher
    kept = [
        Distill(**BRIEFLY, hard_fraction=1.0, keep=keep).apply(unit, ctx).unit.digest
        for keep in ("student", "control")
    ]
    assert kept[0] == kept[1]


def test_one_step_follows_the_documented_loss(teacher: tuple[Unit, PassContext]) -> None:
    unit, ctx = teacher
    ctx = replace(ctx, data=Whole(ctx))
    step = Distill(
        student=STUDENT, epochs=1, lr=0.1, momentum=0.0, batch=600, keep="student",
        temperature=3.0, hard_fraction=0.3, feature_fraction=0.2, features=(("fc2", "fc3"),),
    )  # fmt: skip
    stepped = load(step.apply(unit, ctx).unit.torch.weights)

    inputs = torch.from_numpy(ctx.data.train.inputs())
    labels = torch.from_numpy(ctx.data.train.labels)
    student, guide = build(TorchModel(STUDENT), seed=ctx.seed), build(unit.torch)
    logits, soft = student(inputs), guide(inputs).detach()
    divergence = functional.kl_div(
        (logits / 3).log_softmax(1), (soft / 3).softmax(1), reduction="batchmean"
    )
    loss = (
        0.3 * functional.cross_entropy(logits, labels)
        + 0.5 * 9 * divergence
        + 0.2 * functional.mse_loss(logits, soft)  # the last layers' outputs are the logits
    )
    loss.backward()
    for name, weight in student.named_parameters():
        expected = weight.detach() - 0.1 * weight.grad
        torch.testing.assert_close(stepped[name], expected, atol=1e-6, rtol=1e-4)


class Whole:
    """The splits of a context, for one batch of all training samples."""

    def __init__(self, ctx: PassContext) -> None:
        data = ctx.data
        self.digest, self.calibration, self.test = data.digest, data.calibration, data.test
        self.train = data.train.head(600)


def test_feature_distillation_leaves_a_plain_student(teacher: tuple[Unit, PassContext]) -> None:
    unit, ctx = teacher
    pairs = (("conv1", "conv1"), ("fc1", "fc2"))
    step = Distill(**BRIEFLY, keep="student", hard_fraction=0.2, lr=0.005)
    plain = step.apply(unit, ctx).unit
    hinted = replace(step, features=pairs, feature_fraction=0.3).apply(unit, ctx).unit
    assert load(hinted.torch.weights).keys() == load(plain.torch.weights).keys()
    assert hinted.digest != plain.digest
    assert type(build(hinted.torch)) is torch.nn.Sequential


def test_the_soft_loss_is_between_distributions_whatever_their_form() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 8, 10)
    wanted = soft_loss(3.0, (OutputKind.LOGITS,) * 2)(student, teacher)
    kinds = (OutputKind.PROBABILITIES, OutputKind.LOG_PROBABILITIES)
    found = soft_loss(3.0, kinds)(student.softmax(1), teacher.log_softmax(1))
    torch.testing.assert_close(found, wanted)


def test_the_adapter_maps_channels_and_learns() -> None:
    loss = hint_loss((1, 3, 4, 4), (1, 6, 4, 4), "")
    value = loss(torch.randn(2, 3, 4, 4), torch.randn(2, 6, 4, 4))
    value.backward()
    assert [tuple(w.shape) for w in loss.parameters()] == [(6, 3, 1, 1), (6,)]
    assert all(w.grad.abs().sum() > 0 for w in loss.parameters())
    same = hint_loss((1, 5), (1, 5), "")
    assert not list(same.parameters())
    with pytest.raises(RecipeError, match="differ in more than channels"):
        hint_loss((1, 3, 4, 4), (1, 3, 2, 2), "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hard_fraction": 0.8, "feature_fraction": 0.3, "features": (("a", "b"),)}, "more than 1"),
        ({"feature_fraction": 0.3}, "go together"),
        ({"features": (("a", "b"),)}, "go together"),
        (
            {"feature_fraction": 0.1, "features": (("a", "b"), ("c", "b"))},
            "pair a layer twice .seen b, b",
        ),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Distill(student=STUDENT, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"student": "torch_models:five_classes"}, "does not give what the model gives"),
        ({"feature_fraction": 0.1, "features": (("conv_1", "conv1"),)}, 'mean "conv1"'),
        ({"feature_fraction": 0.1, "features": (("conv1", "fc9"),)}, "the model has no layer"),
        ({"feature_fraction": 0.1, "features": (("conv1", "conv2"),)}, "more than channels"),
    ],
)
def test_students_and_layers_that_do_not_fit(
    teacher: tuple[Unit, PassContext], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        Distill(**{**BRIEFLY, **options}).apply(*teacher)


@pytest.mark.parametrize(
    ("keep", "student", "control", "kept", "because"),
    [
        ("best", (0.97, 0.2), (0.96, 0.1), "student", "97.0 % against the control's 96.0 %"),
        ("best", (0.95, 0.1), (0.96, 0.2), "control", "95.0 % against the control's 96.0 %"),
        ("best", (0.96, 0.1), (0.96, 0.2), "student", "loss is 0.100 against 0.200"),
        ("best", (0.96, 0.2), (0.96, 0.1), "control", "loss is 0.200 against 0.100"),
        ("student", (0.90, 0.3), (0.96, 0.1), "student", "the recipe says so"),
        ("control", (0.99, 0.1), (0.96, 0.1), "control", "the recipe says so"),
    ],
)
def test_which_goes_on(
    keep: str,
    student: tuple[float, float],
    control: tuple[float, float],
    kept: str,
    because: str,
) -> None:
    scores = [Score(top1, loss, 0.0, 500) for top1, loss in (student, control)]
    chosen, reason = choose(keep, *scores)
    assert chosen == kept
    assert because in reason
    assert "500 validation samples" in reason
