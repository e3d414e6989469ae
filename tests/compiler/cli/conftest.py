"""The command line in a process of its own, and a small bundle with a real engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rtc.compiler.bundle import bundles
from rtc.compiler.cli.main import main
from rtc.compiler.core.data import Preprocess
from rtc.compiler.core.evidence import Estimated, Measured, Pending
from rtc.compiler.core.results import (
    FLOAT_MODEL,
    SHIPPED_ENGINE,
    AccuracyRow,
    GateRow,
    LatencyRow,
    Report,
)
from rtc.compiler.core.target import BuildRequest
from rtc.compiler.documents import strict_yaml
from rtc.compiler.frontend.samples import splits_of
from rtc.compiler.frontend.source import onnx_unit
from rtc.compiler.measure import fidelity
from rtc.compiler.recipe.schema import parse_recipe
from rtc.compiler.report import html, serial
from rtc.targets import loader

RECIPE = """\
recipe: 1
name: tiny
version: 1.0.0
source: {onnx: model.onnx}
data: {npz: samples.npz, classes: 3, split: {train: 0.0, calibration: 0.3, test: 0.7}}
passes: [fold-constants]
precision: {offer: [fp32]}
batch: 4
gates: {latency_ms: 10000.0}
"""
MODEL = """
<ir_version: 9, opset_import: ["" : 17]>
tiny (float[n,1,4,4] x) => (float[n,3] y) { flat = Flatten(x)  y = Gemm(flat, w, b) }
"""


@dataclass(frozen=True)
class Done:
    """A finished command."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start `rtc` in an empty folder, with a cache of its own."""

    def begin(*arguments: object, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "rtc.compiler.cli.main", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "RTC_CACHE": str(tmp_path / "cache"), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return begin


@pytest.fixture
def rtc(tmp_path: Path, monkeypatch, capsys) -> Callable[..., Done]:
    """Run `rtc` in an empty folder, with a cache of its own, in this process: that is quicker."""

    def run(*arguments: object) -> Done:
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            patch.setenv("RTC_CACHE", str(tmp_path / "cache"))
            capsys.readouterr()
            code = main([str(argument) for argument in arguments])
        told = capsys.readouterr()
        assert "Traceback" not in told.err or "--debug" in arguments
        return Done(code, told.out, told.err)

    return run


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an ONNX recipe, its model and its samples, which the model gets all right."""
    import onnx

    folder = tmp_path_factory.mktemp("project")
    draw = np.random.default_rng(0)
    weights = draw.normal(size=(16, 3)).astype(np.float32)
    model = onnx.parser.parse_model(MODEL)
    values = {"w": weights, "b": np.zeros(3, np.float32)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, n) for n, v in values.items())
    onnx.save(model, folder / "model.onnx")
    x = draw.normal(size=(60, 1, 4, 4)).astype(np.float32)
    np.savez(folder / "samples.npz", x=x, y=(x.reshape(60, -1) @ weights).argmax(axis=1))
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def built(project: Path) -> Path:
    """The bundle of that recipe for this machine, whose latency is still pending."""
    return _publish(project, "build", Preprocess())


@pytest.fixture(scope="session")
def of_pictures(project: Path) -> Path:
    """The same for an engine whose raw samples are grey pictures."""
    return _publish(project, "pictures", Preprocess(scale=1 / 255, layout="hw"))


def _publish(project: Path, out: str, preprocess: Preprocess) -> Path:
    recipe = parse_recipe(strict_yaml.read(project / "recipe.yaml"), project / "recipe.yaml")
    unit = onnx_unit(project / "model.onnx")
    request = BuildRequest(loader.profile("cpu"), (1, 4, 4), threads=1)
    backend = loader.backend("onnxruntime")
    engine = backend.build(unit.onnx.proto, request)
    manifest = bundles.Manifest(
        name="tiny",
        version="1.0.0+0123456789ab",
        target="cpu",
        passed=True,
        engine=bundles.EngineEntry(
            backend="onnxruntime",
            file=backend.engine_file,
            runtime=engine.runtime,
            binding=engine.binding,
            batches=request.batches,
            threads=request.threads,
        ),
        signature=unit.signature,
        preprocess=preprocess,
        sources={"data": splits_of(recipe).digest},
    )
    inputs = np.random.default_rng(1).normal(size=(8, 1, 4, 4)).astype(np.float32)
    proto = unit.onnx.proto
    files = {
        fidelity.FILE: fidelity.packed(fidelity.of_inputs(proto, proto, inputs, request.profile)),
        backend.engine_file: engine.engine,
        "float.onnx": unit.onnx.proto,
        "graph.onnx": unit.onnx.proto,
        "recipe.yaml": recipe.text.encode(),
        bundles.PROFILE: loader.profile_text(request.profile),
        "report.json": serial.to_json(waiting()),
        "report.html": html.render(waiting()).encode(),
    }
    bundles.publish(project / out, manifest, files)
    return project / out / "tiny" / "cpu"


def waiting() -> Report:
    """A report as a device target's: accuracy measured, latency estimated and pending."""
    score = Measured(1.0, "fraction", "CPU", 42, 0.9, 1.0)
    loss = Measured(0.2, "nats", "CPU", 42)
    name = "onnxruntime fp32"
    return Report(
        recipe="tiny",
        version="1.0.0+0123456789ab",
        target="cpu",
        passed=True,
        headline="waits for its device",
        shipped=name,
        baseline="float model",
        batch=4,
        device={},
        gates=(GateRow("latency_ms", "end-to-end ≤ 10000 ms", "pending", passed=None),),
        accuracy=(
            AccuracyRow(FLOAT_MODEL, score, score, loss, None, "CPU"),
            AccuracyRow(SHIPPED_ENGINE, score, score, loss, score, "CPU"),
        ),
        latency=tuple(
            LatencyRow(name, mode, batch, evidence)
            for mode in ("forward", "end-to-end")
            for batch in (1, 4)
            for evidence in (Estimated(0.1, "ms", "roofline"), Pending("ms", "the device"))
        ),
        candidates=(),
        layers=(),
        certificates=(),
        stages=(),
    )
