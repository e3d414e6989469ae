from __future__ import annotations

from check_pass import check_pass
from digits import STUDENT, few_digits, lenet

from rtc.passes.torch.torch_module import build
from rtc.passes.torch.train import Train
from rtc.passes.torch.training import evaluate


def test_training_raises_accuracy_and_reports_its_curve() -> None:
    unit, ctx = lenet(few_digits(), STUDENT)
    result = check_pass(Train(epochs=4, batch=16), unit, ctx, idempotent=False, samples=200)
    before, after = (evaluate(build(u.torch), ctx.data.test) for u in (unit, result.unit))
    assert after.top1 > before.top1 + 0.4
    assert result.details["test"]["top1"] == after.top1
    (curve,) = result.details["curves"]
    assert curve["subject"] == "model"
    assert len(curve["accuracy"]) == len(curve["loss"]) == 4
    assert curve["loss"][-1] < curve["loss"][0]
    assert result.unit.signature == unit.signature
