"""What segmented calibration does for INT8: run this file with an ONNX classifier and an .npz.

    python tests/benchmarks/segmented.py model.onnx samples.npz [calibration samples]

The .npz holds `x` (samples as the model takes them) and `y` (labels); the first samples calibrate,
the others test. Every row is one observer in one target's scheme, every layer in INT8: decibels of
the logits against the float model's and agreement with its top-1 class, on test samples, with the
float model's ranges and with ranges taken anew; and the processor seconds that these took.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from check_pass import unit_of
from nets import ONNXRUNTIME, PROFILE, TENSORRT

from rtc.calibration.collect import collect
from rtc.calibration.effect import output_snr_db
from rtc.calibration.oracle import Oracle
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.data import Preprocess, Split
from rtc.compiler.core.passes import PassContext, Statistics, TargetContext
from rtc.compiler.core.precision import Variant
from rtc.compiler.core.unit import Unit
from rtc.passes.quantise.assign_precision import AssignPrecision
from rtc.passes.quantise.calibrate_segments import CalibrateSegments
from rtc.passes.quantise.qdq import quantised_twin

OBSERVERS = ("minmax", "percentile", "percentile:99.5", "mse")
SEGMENTS = (1, 4, 8)
SCHEMES = {
    "uint8 affine, per channel": ONNXRUNTIME,
    "int8, per tensor": replace(TENSORRT, per_channel=False),
}


class Halves:
    """The first samples of a file to calibrate, the others to test."""

    digest = "a file's own"

    def __init__(self, x: Array, y: Array, first: int) -> None:
        sides = [(x[:first], y[:first]), (x[first:], y[first:])]
        splits = [Split("some", raw, labels, Preprocess()) for raw, labels in sides]
        self.calibration, self.test = splits
        self.train = self.calibration


def table(unit: Unit, data: Halves) -> None:
    """Print a row for each scheme and observer."""
    print(f"{len(data.calibration)} samples to calibrate, {len(data.test)} to test")
    reference = _top1(unit, data.test)
    print(f"float: top-1 {100 * np.mean(reference == data.test.labels):.2f} %")
    for name, scheme in SCHEMES.items():
        for observer in OBSERVERS:
            assign = AssignPrecision(variant=Variant.INT8, observer=observer)
            seen = collect(unit.onnx.proto, assign.needs(unit), data.calibration)
            where = TargetContext(PROFILE, "some", scheme, 1)
            ctx = PassContext(data, target=where, statistics=seen)
            ctx = replace(ctx, plan=assign.apply(unit, ctx).plan)
            print(f"{name:26} {observer:16} plain        {_row(unit, ctx, seen, reference)}")
            for segments in SEGMENTS:
                begun = time.process_time()
                found = CalibrateSegments(segments=segments).apply(unit, ctx)
                took = time.process_time() - begun
                row = _row(unit, ctx, found.statistics or seen, reference)
                print(f"{'':43} {segments} segments  {row}  {took:6.1f} s  {found.summary}")


def _row(unit: Unit, ctx: PassContext, ranges: Statistics, reference: Array) -> str:
    twin = quantised_twin(unit, replace(ctx, statistics=ranges))
    snr = output_snr_db(unit.onnx.proto, twin.onnx.proto, ctx.data.test)
    agreement = np.mean(_top1(twin, ctx.data.test) == reference)
    return f"{snr:6.2f} dB  agrees {100 * agreement:6.2f} %"


def _top1(unit: Unit, split: Split) -> Array:
    with Oracle(unit.onnx.proto) as oracle:
        logits = [oracle.run(x)[oracle.outputs[0]] for x in split.batches(64)]
    return np.concatenate(logits).argmax(axis=1)


def main() -> None:
    model, samples, *rest = sys.argv[1:]
    held = np.load(samples)
    data = Halves(held["x"], held["y"], int(rest[0]) if rest else 256)
    table(unit_of(Path(model).read_bytes()), data)


if __name__ == "__main__":
    main()
