"""What each repair does for INT8, on nets trained on real digits: run this file.

Every row is one set of repairs on one net in one target's scheme, every layer in INT8: decibels of
the logits against the float model's, agreement with its top-1 class, and top-1 accuracy, all on
samples that no repair has seen; and the seconds that the repairs took.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from hostile import digits_unit, half_steps, unbalanced
from nets import ONNXRUNTIME, PROFILE, TENSORRT

from rtc.calibration.collect import collect
from rtc.calibration.effect import output_snr_db
from rtc.calibration.oracle import Oracle
from rtc.compiler.core.data import Split, Splits
from rtc.compiler.core.passes import Pass, PassContext, TargetContext
from rtc.compiler.core.precision import Variant
from rtc.compiler.core.target import QuantScheme
from rtc.compiler.core.unit import Unit
from rtc.passes.quantise.assign_precision import AssignPrecision
from rtc.passes.quantise.insert_qdq import InsertQdq
from rtc.passes.repair.adaround import Adaround
from rtc.passes.repair.correct_bias import CorrectBias
from rtc.passes.repair.equalize import Equalize

ROUND = Adaround(below_snr_db=200)
SETS: dict[str, tuple[Pass, ...]] = {
    "none": (),
    "equalize": (Equalize(relu6="replace"),),
    "adaround": (ROUND,),
    "correct-bias": (CorrectBias(),),
    "adaround, correct-bias": (ROUND, CorrectBias()),
    "all three": (Equalize(relu6="replace"), ROUND, CorrectBias()),
}
SCHEMES = {
    "uint8 affine, per channel": ONNXRUNTIME,
    "int8, per channel": TENSORRT,
    "int8, per tensor": replace(TENSORRT, per_channel=False),
}


def table(name: str, unit: Unit, data: Splits) -> None:
    """Print the rows of one net."""
    print(f"\n{name}: {len(data.calibration)} samples to calibrate, {len(data.test)} to test")
    reference = _logits(unit, data.test)
    print(f"  float: top-1 {100 * _top1(reference, data.test):.2f} %")
    for scheme_name, scheme in SCHEMES.items():
        for repairs, steps in SETS.items():
            begun = time.perf_counter()
            after = in_int8(unit, steps, scheme, data)
            took = time.perf_counter() - begun
            logits = _logits(after, data.test)
            agreement = np.mean(logits.argmax(1) == reference.argmax(1))
            snr = output_snr_db(unit.onnx.proto, after.onnx.proto, data.test)
            print(
                f"  {scheme_name:26} {repairs:23} {snr:6.2f} dB  agrees {100 * agreement:6.2f} %"
                f"  top-1 {100 * _top1(logits, data.test):6.2f} %  {took:6.1f} s",
                flush=True,
            )


def in_int8(unit: Unit, steps: tuple[Pass, ...], scheme: QuantScheme, data: Splits) -> Unit:
    """A net in INT8 wherever that is possible, after some repairs."""
    ctx = PassContext(data, target=TargetContext(PROFILE, "some", scheme, 1), reference=unit)
    for step in steps:
        if isinstance(step, Equalize):
            unit = step.apply(unit, ctx).unit
    seen = collect(unit.onnx.proto, AssignPrecision().needs(unit), data.calibration)
    ctx = replace(ctx, statistics=seen)
    ctx = replace(ctx, plan=AssignPrecision(variant=Variant.INT8).apply(unit, ctx).plan)
    for step in steps:
        if not isinstance(step, Equalize):
            unit = step.apply(unit, ctx).unit
    return InsertQdq().apply(unit, ctx).unit


def _logits(unit: Unit, split: Split) -> np.ndarray:
    with Oracle(unit.onnx.proto) as oracle:
        return np.concatenate([oracle.run(x)[oracle.outputs[0]] for x in split.batches(64)])


def _top1(logits: np.ndarray, split: Split) -> float:
    assert split.labels is not None
    return float(np.mean(logits.argmax(1) == split.labels))


def trained_lenet() -> tuple[Unit, Splits]:
    """A LeNet-5 trained for a few epochs on 2,000 digits, with ReLU for GELU, exported."""
    from digits import few_digits, lenet

    from rtc.passes.torch.export_onnx import ExportOnnx
    from rtc.passes.torch.simplify_activations import SimplifyActivations
    from rtc.passes.torch.train import Train

    data = few_digits(2000)
    unit, ctx = lenet(data, "rtc.recipes.models.lenet5:student")
    for step in (Train(epochs=8, lr=0.1), SimplifyActivations(budget=0.05), ExportOnnx()):
        unit = step.apply(unit, ctx).unit
    return unit, data


def main() -> None:
    from hostile import DATA

    net = digits_unit()
    table("digits net", net, DATA)
    table("digits net, one channel 100 times larger", unbalanced(net), DATA)
    table("digits net, every weight 0.45 of a step off", half_steps(net), DATA)
    table("LeNet-5 student", *trained_lenet())


if __name__ == "__main__":
    main()
