"""One cell of the coverage table: an architecture, its export, a runtime and a precision.

Each cell is compiled as a user would, from an ONNX file, an .npz file and a recipe, with that
precision alone on offer. What ships is then looked at from outside: the graph in the bundle against
PyTorch, the engine against that graph at batch 1 and at the recipe's batch, and the contract.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import yaml

from rtc.calibration.oracle import Oracle
from rtc.compiler import compile as rtc_compile
from rtc.compiler import load
from rtc.compiler.core.errors import RtcError
from rtc.compiler.core.intervals import paired_difference
from rtc.compiler.core.precision import Variant
from rtc.compiler.core.results import Report
from rtc.compiler.storage.store import Store
from rtc.targets import loader
from zoo import peers
from zoo.architectures import ARCHITECTURES, CLASSES, Architecture, Images, built, images

RUNTIMES = {"onnxruntime": "cpu", "openvino": "cpu", "tensorrt_rtx": "rtx4060ti"}
PRECISIONS = ("fp32", "half", "int8", "mix")
EXPORTERS = ("dynamo", "torchscript")
BATCH = 4
_CALIBRATION, _TEST = 64, 128
_DRAWN = 3  # times as many samples as are kept
_PASSES = ["eliminate-identity", "fold-constants", "fold-batchnorm", "eliminate-dead-code"]
_FLOAT_DB = 60.0  # a float engine's sums are ordered otherwise, no more
_HALF_DB = 20.0  # BF16 has 8 bits: a deep network keeps 20 to 40 dB
_COARSER_DB = {"fp16": 78.3, "bf16": 96.3}  # 13 and 16 bits fewer than float32, which are amplified
_WRONG_DB = 20.0  # an INT8 engine this close to its graph computes that graph
_TWICE_DB = 3.0  # apart are two that round for themselves, each as far from PyTorch
_NOISIER_DB = 1.0  # than its graph's are an engine's logits at most, both against PyTorch's

Logits = npt.NDArray[np.float32]  # (N, CLASSES)


@dataclass(frozen=True)
class Export:
    """How a model became an ONNX file; the dynamo exporter writes opset 18 or later."""

    exporter: str
    opset: int


@dataclass(frozen=True)
class Cell:
    """What became of one cell.

    Attributes:
        outcome: "right"; "left out" where the runtime gains nothing from it; "lost": rtc refused
            or failed, and said so; "wrong": it shipped and computes something else.
        reason: why it is not right.
        graph_db: signal over what the graph's logits differ from PyTorch's by.
        engine_db: signal over what the engine's differ from its graph's by, at its worst batch.
        whole_db: signal over what the engine's differ from PyTorch's by, likewise.
        agreement: how often the graph's class is PyTorch's.
        behind: a peer with the same samples that agrees more, beyond chance; "" where none does.
        layers, changed, unknown: of the contract.
        int8: layers that run in INT8.
    """

    model: str
    kind: str
    exporter: str
    opset: int
    runtime: str
    precision: str
    outcome: str
    reason: str = ""
    graph_db: float | None = None
    engine_db: float | None = None
    whole_db: float | None = None
    agreement: float | None = None
    behind: str = ""
    layers: int = 0
    changed: int = 0
    unknown: int = 0
    int8: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Subject:
    """An exported model with its samples, in a folder."""

    of: Architecture
    export: Export
    folder: Path
    test: Images
    calibration: Images
    reference: Logits  # PyTorch's, of `test`

    def cells(
        self, runtimes: Sequence[str], precisions: Sequence[str], *, with_peers: bool
    ) -> Iterator[Cell]:
        """Every cell of this model, one after another."""
        for runtime in runtimes:
            for precision in precisions:
                begun = time.perf_counter()
                found = self._cell(runtime, precision, with_peers=with_peers)
                yield Cell(
                    self.of.name,
                    self.of.kind,
                    self.export.exporter,
                    self.export.opset,
                    runtime,
                    precision,
                    seconds=round(time.perf_counter() - begun, 1),
                    **found,
                )

    def _cell(self, runtime: str, precision: str, *, with_peers: bool) -> dict[str, Any]:
        profile = loader.profile(RUNTIMES[runtime])
        gains_nothing = loader.backend(runtime).variants(profile).get(Variant(precision))
        if gains_nothing:
            return {"outcome": "left out", "reason": gains_nothing}
        try:
            result = rtc_compile(
                self._recipe(runtime, precision),
                out=self.folder / "build",
                store=Store(self.folder / "store"),
            )[0]
            found = self._judged(result.bundle, result.report, runtime, precision)
        except RtcError as error:
            return {"outcome": "lost", "reason": str(error)}
        except Exception as error:  # noqa: BLE001 - a bug of rtc's is a row of this table
            return {"outcome": "lost", "reason": f"a bug: {type(error).__name__}: {error}"}
        if with_peers and precision == "int8" and "agreement" in found:
            found["behind"] = self._behind(result.bundle, runtime)
        return found

    def _recipe(self, runtime: str, precision: str) -> Path:
        profile = self.folder / f"{runtime}.yaml"
        target = RUNTIMES[runtime]
        if target == "cpu":
            described = {"vendor": "any", "kind": "cpu", "backends": [runtime]}
            profile.write_text(yaml.safe_dump({"name": f"cpu-{runtime}", **described}))
            target = profile.name
        content = {
            "recipe": 1,
            "name": f"{self.of.name}-{precision}",
            "version": "1.0.0",
            "source": {"onnx": "model.onnx"},
            "data": {
                "npz": "samples.npz",
                "classes": CLASSES,
                "preprocess": {"layout": "as-is"},
                "split": {"train": 0.0, "calibration": _share(), "test": 1 - _share()},
            },
            "passes": _PASSES,
            "precision": {"offer": [precision], "search": None},
            "batch": BATCH,
            "targets": [target],
            "measure": {"seconds": 0.1, "threads": 1},
            "gates": {"top1_drop": None, "parity": None},
        }
        path = self.folder / f"{runtime}-{precision}.recipe.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    def _judged(self, bundle: Path, report: Report, runtime: str, precision: str) -> dict[str, Any]:
        graph = (bundle / "graph.onnx").read_bytes()
        logits = _in_reference(graph, self.test)
        found: dict[str, Any] = {
            "graph_db": _snr(self.reference, logits),
            "agreement": float((logits.argmax(1) == self.reference.argmax(1)).mean()),
            "layers": len(report.layers),
            "changed": len(report.changed()),
            "unknown": len(report.unknown()),
            "int8": sum(row.built == "int8" for row in report.layers),
        }
        if RUNTIMES[runtime] == "cpu":
            engines = [_of_engine(bundle, self.test, n) for n in (1, BATCH)]
            found["engine_db"] = min(_snr(logits, each) for each in engines)
            found["whole_db"] = min(_snr(self.reference, each) for each in engines)
        half = loader.backend(runtime).scheme(loader.profile(RUNTIMES[runtime])).half
        reason = _fault(_least(precision, half, self.own_db), found)
        return {**found, "outcome": "wrong" if reason else "right", "reason": reason}

    @cached_property
    def own_db(self) -> float:
        """Signal over what float32's rounding makes of the network, in two orders of its sums."""
        model = (self.folder / "model.onnx").read_bytes()
        return _snr(self.reference, _in_reference(model, self.test))

    def _behind(self, bundle: Path, runtime: str) -> str:
        """Peers that agree with the float model more than rtc does, beyond chance."""
        own = _in_reference((bundle / "graph.onnx").read_bytes(), self.test).argmax(1)
        classes, told = self.reference.argmax(1), []
        model = (bundle / "float.onnx").read_bytes()
        for name, logits in peers.logits(runtime, model, self.calibration, self.test):
            theirs = logits.argmax(1) == classes
            ahead = paired_difference(theirs, own == classes)
            if ahead.low > 0:
                told.append(f"{name} {100 * theirs.mean():.1f} %")
        return ", ".join(told)


def subject(name: str, export: Export, folder: Path) -> Subject:
    """Build, settle and export an architecture, and write its samples beside it."""
    import torch

    of = ARCHITECTURES[name]
    count = _CALIBRATION + _TEST
    samples = images(of.size, _DRAWN * count)
    module = built(of, samples)
    with torch.no_grad():
        logits = torch.cat([module(part) for part in torch.from_numpy(samples).split(32)]).numpy()
    sure = np.sort(_surest(logits, count))
    samples, logits = samples[sure], logits[sure]
    _export(module, samples[:2], export, folder / "model.onnx")
    np.savez(folder / "samples.npz", x=samples, y=logits.argmax(1))
    cut = _CALIBRATION  # whose are whose in rtc's splits is of no matter to what is held here
    return Subject(of, export, folder, samples[cut:], samples[:cut], logits[cut:])


def _surest(logits: Logits, count: int) -> npt.NDArray[np.int64]:
    """The samples of widest margins: of random weights most are a toss-up, unlike trained ones'."""
    ordered = np.sort(logits, axis=1)
    return np.argsort(ordered[:, -2] - ordered[:, -1], kind="stable")[:count]


def _share() -> float:
    return _CALIBRATION / (_CALIBRATION + _TEST)


def _export(module: Any, samples: Images, export: Export, path: Path) -> None:
    import torch

    data = torch.from_numpy(samples)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if export.exporter == "dynamo":
            torch.onnx.export(
                module,
                (data,),
                path,
                dynamic_shapes=({0: torch.export.Dim("N")},),
                opset_version=export.opset,
                verbose=False,
                external_data=False,
            )
        else:
            torch.onnx.export(
                module,
                (data,),
                path,
                dynamo=False,
                input_names=["x"],
                output_names=["logits"],
                dynamic_axes={"x": {0: "N"}, "logits": {0: "N"}},
                opset_version=export.opset,
            )
    onnx.checker.check_model(onnx.load(path))


def _in_reference(graph: bytes, samples: Images) -> Logits:
    with Oracle(graph) as oracle:
        name = oracle.outputs[0]
        parts = [oracle.run(samples[i : i + BATCH])[name] for i in range(0, len(samples), BATCH)]
    return np.concatenate(parts)


def _of_engine(bundle: Path, samples: Images, batch: int) -> Logits:
    with load(bundle) as engine:
        return np.concatenate(
            [engine(samples[i : i + batch]) for i in range(0, len(samples), batch)]
        )


def _snr(signal: Logits, other: Logits) -> float:
    """Decibels; at most 150, minus infinity where the other is not finite."""
    if not np.isfinite(other).all():
        return -np.inf
    noise = float(np.square(other.astype(np.float64) - signal).sum())
    power = float(np.square(signal.astype(np.float64)).sum())
    return round(10 * np.log10(power / max(noise, 1e-15 * power)), 1)


def _least(precision: str, half: str | None, own_db: float) -> float:
    """Decibels that a precision keeps at least, where float32 keeps `own_db` of the network."""
    if precision == "half" and half:
        return min(_HALF_DB, own_db - _COARSER_DB[half])
    return _FLOAT_DB if precision == "fp32" else -np.inf


def _fault(least: float, found: dict[str, Any]) -> str:
    """What shows that something else is computed than was asked for; "" where nothing does.

    `least`: decibels that a float precision keeps; minus infinity where there are integers.
    """
    graph, engine = found["graph_db"], found.get("engine_db", np.inf)
    if not graph > max(least, 0.0):
        return f"the graph's logits are {graph:.1f} dB from PyTorch's"
    # Rounding that falls otherwise in an INT8 engine costs no more than rounding itself: in a deep
    # network of random weights all that follows may differ by then, but no more than by as much.
    has_integers = not np.isfinite(least)
    enough = min(_WRONG_DB, graph - _TWICE_DB) if has_integers else least
    if not engine > enough:
        return f"the engine's logits are {engine:.1f} dB from its graph's"
    whole = found.get("whole_db", np.inf) if has_integers else np.inf
    if not whole > graph - _NOISIER_DB:
        return f"the engine's logits are {whole:.1f} dB from PyTorch's, its graph's {graph:.1f} dB"
    return ""
