"""The two sensitivity engines against each other: what they cost, and whether they rank alike.

    python tests/benchmarks/sensitivity.py [--models resnet20 mobilenet_v2 resnet50] [--samples 128]

ResNet-20 and MobileNetV2 (32×32) are trained for a moment on digits; torchvision's ResNet-50 at 224
has random weights, with its normalisation set to the statistics of digits. Costs are in forward
passes over the same samples, with the bound beside; the rank correlation is Spearman's over all
layers, of the output's signal-to-noise ratio, with a bootstrap interval over layers. Exits with 1
where a bound is exceeded or a correlation is below 0.9.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rtc.calibration.collect import collect
from rtc.calibration.data import load_splits
from rtc.calibration.oracle import Oracle
from rtc.calibration.sensitivity import Sensitivity, exact, fast
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.data import Preprocess, Splits
from rtc.compiler.core.passes import PassContext, TargetContext
from rtc.compiler.core.precision import Precision
from rtc.compiler.core.target import DeviceProfile, QuantScheme
from rtc.compiler.core.unit import Unit
from rtc.passes.graph.eliminate_identity import EliminateIdentity
from rtc.passes.graph.fold_batchnorm import FoldBatchnorm
from rtc.passes.graph.fold_constants import FoldConstants
from rtc.passes.quantise.assign_precision import AssignPrecision
from rtc.passes.quantise.one_layer import alternatives
from rtc.passes.torch.export_onnx import ExportOnnx
from rtc.passes.torch.torch_module import build, pack, source_unit
from rtc.passes.torch.train import Train
from rtc.recipes.datasets.mnist import mnist5k

LEAST_CORRELATION = 0.9
SCHEMES = {
    "onnxruntime": QuantScheme(
        "uint8", bias="int32", quantise_outputs=True, int8_ops=("Conv", "Gemm", "MatMul")
    ),
    "tensorrt": QuantScheme("int8", half="fp16"),
    "openvino": QuantScheme("uint8", half="bf16", half_in_graph=False),
}


@dataclass(frozen=True)
class Subject:
    factory: str
    size: int
    epochs: int
    options: Mapping[str, Any] = field(default_factory=dict)


SUBJECTS = {
    "resnet20": Subject("rtc.recipes.models.resnet:resnet20", 32, 3),
    "mobilenet_v2": Subject(
        "rtc.recipes.models.mobilenet:mobilenet_v2", 32, 2, {"classes": 10, "size": 32}
    ),
    "resnet50": Subject("rtc.recipes.models.torchvision:model", 224, 0, {"name": "resnet50"}),
}


def digits(size: int) -> Splits:
    """2,500 digits as images (3, size, size): enlarged by whole pixels, and framed in black."""

    def enlarge() -> tuple[Array, Array | None]:
        raw, labels = mnist5k().load()
        raw = np.kron(raw[::2], np.ones((1, size // 28, size // 28), np.uint8))
        frame = (size - raw.shape[1]) // 2
        raw = np.pad(raw, [(0, 0), (frame, frame), (frame, frame)])
        return np.repeat(raw[..., None], 3, axis=3), labels[::2]

    preprocess = Preprocess(scale=1 / 255, mean=(0.1307,), std=(0.3081,), layout="hwc")
    whole = replace(mnist5k(), digest=f"digits at {size}", preprocess=preprocess, load=enlarge)
    return load_splits(whole, (0.6, 0.2, 0.2), seed=0)


def float_model(subject: Subject, data: Splits) -> Unit:
    """Trained (or with normalisation that fits the data), exported, normalisation folded."""
    ctx = PassContext(data)
    unit = source_unit(subject.factory, subject.options, b"", data.train, seed=0)
    if subject.epochs:
        unit = Train(epochs=subject.epochs, lr=0.02).apply(unit, ctx).unit
    else:
        unit = _with_statistics(unit, data)
    for step in (ExportOnnx(), FoldConstants(), FoldBatchnorm(), EliminateIdentity()):
        unit = step.apply(unit, ctx).unit
    return unit


def _with_statistics(unit: Unit, data: Splits) -> Unit:
    import torch

    module = build(unit.torch).train()
    with torch.no_grad():
        for start in range(0, 128, 16):
            module(torch.from_numpy(data.train.inputs(start, start + 16)))
    return Unit(pack(module, unit.torch), unit.signature)


def spearman(a: Array, b: Array) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


def compare(name: str, scheme: str, samples: int) -> bool:
    """Whether both engines keep their bounds, and rank alike."""
    subject = SUBJECTS[name]
    data = digits(subject.size)
    unit = float_model(subject, data)
    split = data.calibration.head(samples)
    ranges = collect(unit.onnx.proto, AssignPrecision().needs(unit), split)
    target = TargetContext(DeviceProfile("here", "", "cpu", ()), scheme, SCHEMES[scheme], 1)
    ctx = PassContext(data, target=target, statistics=ranges)
    clock = time.perf_counter()
    proto, offers = alternatives(unit, ctx)
    made = time.perf_counter() - clock
    passing = _forward_seconds(proto, split)
    truth = exact(proto, offers, split)
    guess = fast(proto, offers, split)
    top1 = "untrained" if not subject.epochs else f"top-1 {_top1(proto, data):.1%}"
    print(f"\n{name} ({top1}), {scheme}, {truth.samples} samples; ", end="")
    print(f"one pass {passing:.1f} s, alternatives written in {made:.1f} s")
    held = True
    for precision in dict.fromkeys(row.precision for row in truth.rows):
        held &= _print_precision(truth, guess, precision) >= LEAST_CORRELATION
    count = len({row.layer for row in truth.rows})
    kinds = len({row.precision for row in truth.rows})
    for result, limit in ((truth, 0.6 * count * kinds), (guess, 6.0)):
        cost = result.cost
        held &= cost.passes <= limit
        print(f"  {result.engine:5}  {cost.passes:6.2f} passes (bound {limit:.1f})  ", end="")
        print(f"{cost.seconds:7.1f} s = {cost.seconds / passing:.1f} × a pass")
    return held


def _print_precision(truth: Sensitivity, guess: Sensitivity, precision: Precision) -> float:
    """The rank correlation."""
    found = [row for row in truth.rows if row.precision is precision]
    told = [guess.of(row.layer, precision) for row in found]
    snr = np.array([row.output_snr_db.value for row in found])
    estimate = np.array([row.output_snr_db.value for row in told])
    kl = spearman(np.array([r.kl.value for r in found]), np.array([r.kl.value for r in told]))
    same = np.array([r.agreement.value for r in found]) - [r.agreement.value for r in told]
    random = np.random.default_rng(0)
    draws = [random.integers(len(snr), size=len(snr)) for _ in range(1000)]
    low, high = np.nanpercentile([spearman(snr[i], estimate[i]) for i in draws], (2.5, 97.5))
    print(
        f"  {precision:5} {len(found):3} layers  Spearman of SNR {spearman(snr, estimate):.3f}"
        f" [{low:.3f}, {high:.3f}], of KL {kl:.3f};"
        f" SNR {snr.min():.0f} to {snr.max():.0f} dB, median error"
        f" {np.median(np.abs(snr - estimate)):.1f} dB; agreement off by at most"
        f" {np.abs(same).max():.3f}"
    )
    return spearman(snr, estimate)


def _forward_seconds(proto: bytes, split: Any) -> float:
    with Oracle(proto) as oracle:
        oracle.run(split.inputs(0, 1))
        clock = time.perf_counter()
        for _, inputs in oracle.batches(split, 16):
            oracle.run(inputs)
        return time.perf_counter() - clock


def _top1(proto: bytes, data: Splits) -> float:
    test = data.test
    with Oracle(proto) as oracle:
        logits = np.concatenate([next(iter(oracle.run(x).values())) for x in test.batches(50)])
    return float((logits.argmax(axis=1) == test.labels).mean())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(SUBJECTS), choices=SUBJECTS)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--scheme", choices=SCHEMES, default="tensorrt")
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    held = [compare(name, options.scheme, options.samples) for name in options.models]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
