"""Calibration of torchvision's ResNet-50 at 224: memory by number of samples, time by observer.

Random weights and synthetic images, made as they are asked for, so that the samples themselves
take no memory. Needs the `torch` extra and torchvision.

    python tests/benchmarks/calibration.py memory [--samples 64 1024] [--observer percentile]
    python tests/benchmarks/calibration.py time   [--samples 32] [--repeats 5] [--observers …]

`memory`: the peak RSS of a process for each number. `time`: plain inference (the same unoptimised
session options, the same batches, no extra outputs) and each observer in turn; medians of seconds,
and of the ratio to plain inference round by round. Exits with 1 where the peak grows by more than
5 %, or percentile takes more than 1.5 times plain inference.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rtc.calibration import collect as collecting
from rtc.calibration.oracle import Oracle
from rtc.compiler.core.passes import Observation
from rtc.compiler.frontend.source import onnx_unit
from rtc.passes.graph.fold_batchnorm import FoldBatchnorm
from rtc.passes.quantise.assign_precision import AssignPrecision

MOST_GROWTH, MOST_TIME = 1.05, 1.5
OBSERVERS = ("minmax", "moving-average", "percentile", "entropy", "mse", "auto")


@dataclass(frozen=True)
class Synthetic:
    """Images of seeded noise, coarse and fine."""

    count: int

    def __len__(self) -> int:
        return self.count

    def inputs(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        return np.concatenate(
            [_image(i) for i in range(start, min(stop or self.count, self.count))]
        )


def _image(index: int) -> np.ndarray:
    random = np.random.default_rng(index)
    coarse = random.standard_normal((1, 3, 14, 14), dtype=np.float32)
    coarse = coarse.repeat(16, axis=2).repeat(16, axis=3)
    return coarse + 0.3 * random.standard_normal((1, 3, 224, 224), dtype=np.float32)


def resnet50(path: Path) -> None:
    """Write the float model: exported, batch normalisation folded."""
    import torch
    from torchvision.models import resnet50 as factory

    torch.manual_seed(0)
    model = factory(weights=None).eval()
    program = torch.onnx.export(
        model,
        (torch.zeros(2, 3, 224, 224),),
        dynamo=True,
        verbose=False,
        dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
    )
    program.save(str(path))
    path.write_bytes(FoldBatchnorm().apply(onnx_unit(path), None).unit.onnx.proto)


def wanted(proto: bytes, kind: str) -> frozenset[Observation]:
    from rtc.compiler.core.unit import OnnxModel, Signature, Unit

    return AssignPrecision(observer=kind).needs(Unit(OnnxModel(proto), Signature((), ())))


def memory(model: Path, sizes: list[int], kind: str) -> bool:
    """Whether the peak stays where it is."""
    print(f"{'samples':>8}  peak RSS, MiB  ({kind})")
    peaks = []
    for count in sizes:
        command = [sys.executable, __file__, "child", str(model), str(count), kind]
        peaks.append(int(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
        print(f"{count:>8}  {peaks[-1] / 1024:.0f}", flush=True)
    growth = peaks[-1] / peaks[0]
    print(f"last / first: {growth:.3f} (at most {MOST_GROWTH})")
    return growth <= MOST_GROWTH


def child(model: Path, count: int, kind: str) -> None:
    proto = model.read_bytes()
    collecting.collect(proto, wanted(proto, kind), Synthetic(count))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def plain(proto: bytes, split: Synthetic, batch: int) -> None:
    with Oracle(proto) as oracle:
        for _, inputs in oracle.batches(split, batch):
            oracle.run(inputs)


def timings(model: Path, count: int, repeats: int, kinds: list[str]) -> bool:
    """Whether percentile calibration takes no longer than it may, where it was timed."""
    proto, split = model.read_bytes(), Synthetic(count)
    batch = batch_of(proto, split)
    needs = {kind: wanted(proto, kind) for kind in kinds}  # planning is not calibration's
    seconds: dict[str, list[float]] = {"plain inference": [], **{kind: [] for kind in kinds}}
    for _ in range(repeats):
        for name, spent in seconds.items():
            begun = time.perf_counter()
            if name in OBSERVERS:
                collecting.collect(proto, needs[name], split)
            else:
                plain(proto, split, batch)
            spent.append(time.perf_counter() - begun)
    base = seconds["plain inference"]
    times = {
        name: statistics.median(mine / theirs for mine, theirs in zip(spent, base, strict=True))
        for name, spent in seconds.items()
    }
    print(f"{count} samples, batches of {batch}, {repeats} rounds, interleaved; medians")
    for name, spent in seconds.items():
        spread = f"{min(spent):.2f} to {max(spent):.2f}"
        print(f"{name:<16} {statistics.median(spent):7.2f} s ({spread})  {times[name]:.2f} ×")
    return times.get("percentile", 0.0) <= MOST_TIME


def batch_of(proto: bytes, split: Synthetic) -> int:
    """The batch that calibration takes."""
    sizes = []
    collecting.collect(
        proto, wanted(proto, "minmax"), split, lambda done, _, __="": sizes.append(done)
    )
    return sizes[0]


def main() -> int:
    if sys.argv[1:2] == ["child"]:
        child(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
        return 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("memory", "time"))
    parser.add_argument("--samples", type=int, nargs="+")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--observers", nargs="+", choices=OBSERVERS, default=OBSERVERS)
    parser.add_argument("--observer", default="percentile")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "resnet50.onnx"
        resnet50(model)
        if given.what == "memory":
            held = memory(model, given.samples or [64, 1024], given.observer)
        else:
            held = timings(model, (given.samples or [32])[0], given.repeats, given.observers)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
