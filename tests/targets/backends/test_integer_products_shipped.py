"""What ships where products of integers may overflow: on this CPU, and on one without VNNI."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from weighted_products import (
    OVER,
    PAIRED,
    WEIGHTS,
    constant_first,
    flagged,
    integer,
    model,
    weighted,
)

from rtc.calibration.oracle import session
from rtc.compiler.core.errors import ModelError
from rtc.compiler.core.target import BuildRequest
from rtc.targets.backends import onnxruntime as ort_backend
from rtc.targets.backends import x86
from rtc.targets.loader import backend, profile

REQUEST = BuildRequest(profile("cpu"), (1, 1, 4), threads=1)
TURNED = "vq = QuantizeLinear (v, ws, wz) vt = Transpose (vq) vd = DequantizeLinear (vt, ws, wz)"
SHIPPED = {
    # what each needs where products are added in 16 bits
    "paired": (weighted("MatMul", "stored", PAIRED), "as it is"),
    "over": (weighted("MatMul", "stored", OVER), "widened"),
    "over, from floats": (weighted("Gemm", "from floats", OVER), "widened"),
    "over, convolution": (integer("QLinearConv", OVER), "widened"),
    "over, in float": (weighted("Conv", "transpose", OVER), "as it is"),  # no Q behind it
    "int8 by int8": (integer("QLinearMatMul", OVER, "int8"), "as it is"),
    "uint8 by int8": (integer("QLinearMatMul", OVER), "widened"),
    "activations": (
        model(
            "vq = QuantizeLinear (v, ws, wz) m = MatMulInteger (q, vq, xz, wz) "
            "y = Cast <to = 1> (m)",
            inputs=", float[8,M] v",
        ),
        "written out",
    ),
    "activations, dequantised": (
        model(f"{TURNED} y = MatMul (xd, vd)", inputs=", float[M,8] v"),
        "written out",
    ),
}


def extreme_feeds(proto: bytes) -> dict[str, np.ndarray]:
    """Everything at the end of its range; 4 where a dimension is free."""
    return {
        each.name: np.full(
            [dim.dim_value or 4 for dim in each.type.tensor_type.shape.dim],
            {"x": 5.1, "v": 1.27}[each.name],
            np.float32,
        )
        for each in onnx.load_model_from_string(proto).graph.input
    }


@pytest.mark.parametrize("name", SHIPPED)
def test_what_onnx_runtime_is_given_where_products_are_added_in_16_bits(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    proto, needs = SHIPPED[name]
    monkeypatch.setattr(x86, "adds_in_16_bits", lambda: True)
    graph, settings = ort_backend._unsaturated(proto)
    key = next(iter(settings), "")
    how = {"": "as it is", "session.x64quantprecision": "widened"}.get(key, "written out")
    assert how == needs
    optimised = tmp_path / "optimised.onnx"
    loaded = ort_backend._load(graph, 1, settings, optimised)
    assert x86.saturating(onnx.load(optimised)) == ()
    feeds = extreme_feeds(proto)
    expected = session(proto, threads=1).run(None, feeds)[0]
    np.testing.assert_allclose(loaded.run(None, feeds)[0], expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["over", "over, from floats", "over, in float", "uint8 by int8"])
def test_openvino_is_bound_to_cpus_with_room_or_refuses(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proto, _ = SHIPPED[name]
    monkeypatch.setattr(x86, "adds_in_16_bits", lambda: False)
    assert backend("openvino").build(proto, REQUEST).binding[x86.KEY] == x86.WIDE
    monkeypatch.setattr(x86, "adds_in_16_bits", lambda: True)
    with pytest.raises(ModelError) as caught:
        backend("openvino").build(proto, REQUEST)
    assert caught.value.id == "overflowing-weights"


EMULATED = """
import sys, numpy as np
from rtc.targets.backends import onnxruntime, x86
assert x86.adds_in_16_bits()
for name in sys.argv[1:]:
    case = np.load(name)
    feeds = {name: case[name] for name in case if name in ("x", "v")}
    got = onnxruntime._session(case["proto"].tobytes(), 1).run(None, feeds)[0]
    np.testing.assert_allclose(got, case["expected"], rtol=1e-5)
"""


@pytest.mark.slow
def test_what_ships_is_right_on_a_cpu_without_vnni(tmp_path: Path) -> None:
    emulator = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
    if not emulator:
        pytest.skip("needs qemu-x86_64 to emulate a CPU without VNNI")
    for name, (proto, _) in SHIPPED.items():
        feeds = extreme_feeds(proto)
        expected = session(proto, threads=1).run(None, feeds)[0]
        whole = {"proto": np.frombuffer(proto, np.uint8), "expected": expected}
        np.savez(tmp_path / name, **whole, **feeds)
    files = map(str, tmp_path.glob("*.npz"))
    command = [emulator, "-cpu", "Haswell-v4", sys.executable, "-c", EMULATED, *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode == -signal.SIGSEGV:  # seen with 2026.4.1 on a CPU with AMX
        pytest.skip("OpenVINO crashes here where it is told to use AVX2 alone")
    assert done.returncode == 0, done.stderr[-2000:]


NARROW = """
import sys, numpy as np
from rtc.targets.backends.openvino import openvino_quietly
core = openvino_quietly().Core()
for name in sys.argv[1:]:
    case = np.load(name)
    try:
        compiled = core.compile_model(core.read_model(case["proto"].tobytes(), b""), "CPU")
        got = compiled({n: case[n] for n in case if n in ("x", "v")})[0]
    except RuntimeError:  # it has no such kernel, and says so
        continue
    if not np.allclose(got, case["expected"], rtol=0.02):
        print(name)
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="kernels of x86")
def test_what_openvino_computes_wrong_without_vnni_is_flagged(tmp_path: Path) -> None:
    """Its kernels for AVX2, which it can be told to use: nothing wrong there goes unseen."""
    large = np.full((8, 4), 120, np.int8)
    cases = {form: weighted("MatMul", form, large) for form in WEIGHTS}
    cases["activations"], _ = SHIPPED["activations, dequantised"]
    cases["small, first"] = constant_first("int8", 5)
    for name, proto in cases.items():
        feeds = extreme_feeds(proto)
        expected = session(proto, threads=1).run(None, feeds)[0]
        whole = {"proto": np.frombuffer(proto, np.uint8), "expected": expected}
        np.savez(tmp_path / name, **whole, **feeds)
    files = map(str, tmp_path.glob("*.npz"))
    done = subprocess.run(
        [sys.executable, "-c", NARROW, *files],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    wrong = [Path(line).stem for line in done.stdout.splitlines()]
    assert "small, first" in wrong  # it does saturate
    assert [name for name in wrong if not flagged(cases[name])] == []
