"""A small bundle, its content, and damage to it."""

from pathlib import Path

from rtc.compiler.bundle.bundles import EngineEntry, Manifest
from rtc.compiler.core.unit import Signature, TensorSpec

VERSION = "1.0.0+0123456789ab"
FILES = {"engine.onnx": bytes(range(256)), "layers.json": b"[]\n", "report.html": b"<p>"}
MADE = Manifest(
    name="lenet5-mnist",
    version=VERSION,
    target="cpu",
    passed=True,
    engine=EngineEntry(
        "onnxruntime", "engine.onnx", "onnxruntime 1.31.0", {"isa": "avx2"}, (1, 64, 64), 2
    ),
    signature=Signature(
        (TensorSpec("x", "float32", ("batch", 1, 28, 28)),),
        (TensorSpec("y", "float32", ("batch", 10)),),
    ),
    sources={"recipe.yaml": "sha256:00"},
    versions={"onnx": "1.23.0"},
    certificates=({"stage": "fold", "measured": 1.5e-06, "samples": 64, "note": None},),
    gates=({"name": "top1_drop", "asked": 0.01, "found": -0.002, "passed": True},),
)


def home(out: Path) -> Path:
    return out / "lenet5-mnist" / "cpu"


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def damage(folder: Path) -> None:
    (folder / "layers.json").write_bytes(b"[0]")
