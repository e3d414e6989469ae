"""What `rtc.compiler` exports, and the page that lists it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import rtc.compiler

PAGE = (Path(__file__).parents[2] / "docs/python-api.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
NAMES = re.findall(
    r"`(\w+)(?:\([^`]*\))?`", "".join(re.findall(r"^\| (`.*?) \| ", PAGE, re.MULTILINE))
)
MODEL = """
<ir_version: 9, opset_import: ["" : 17]>
parts (float[n,4,4] x) => (float[n,3] y) { flat = Flatten(x)  y = Gemm(flat, w, b) }
"""
RECIPE = """\
recipe: 1
name: parts
version: 1.0.0
source: {{onnx: model.onnx}}
data: {{{}, split: {{train: 0.0, calibration: 0.3, test: 0.7}}}}
passes: [fold-constants]
precision: {{offer: [fp32]}}
measure: {{seconds: 0.1, threads: 1}}
batch: 4
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the page's examples speak of: two recipes, a model, samples and a module."""
    draw = np.random.default_rng(0)
    weights = draw.normal(size=(16, 3)).astype(np.float32)
    model = onnx.parser.parse_model(MODEL)
    values = {"w": weights, "b": np.zeros(3, np.float32)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, n) for n, v in values.items())
    onnx.save(model, tmp_path / "model.onnx")
    x = draw.normal(size=(80, 4, 4)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", x=x, y=(x.reshape(80, -1) @ weights).argmax(axis=1))
    kinds = {
        "recipe": "npz: samples.npz, classes: 3",
        "function": "dataset: page:pictures_of_parts",
    }
    for name, data in kinds.items():
        (tmp_path / f"{name}.yaml").write_text(RECIPE.format(data), encoding="utf-8")
    made = next(block for block in BLOCKS if "def pictures_of_parts" in block)
    module = "import numpy as np\n" + made.replace('compile("function.yaml", targets="cpu")', "")
    (tmp_path / "page.py").write_text(module, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RTC_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_every_name_comes_from_where_it_says() -> None:
    for name in rtc.compiler.__all__:
        assert getattr(rtc.compiler, name).__name__ == name
    assert set(rtc.compiler.__all__) <= set(dir(rtc.compiler))
    with pytest.raises(AttributeError, match="no attribute 'compille'"):
        rtc.compiler.compille  # noqa: B018


def test_the_page_lists_every_name_and_no_other() -> None:
    assert sorted(NAMES) == sorted(rtc.compiler.__all__)


def test_the_examples_of_the_page_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space: dict[str, object] = {}
    for block in BLOCKS:
        exec(compile(block, "python-api.md", "exec"), space)
    said = capsys.readouterr().out
    assert re.search(r"^cpu build/parts/cpu/\S+ PASS$", said, re.MULTILINE)
    assert re.search(r"^\(4, 3\) (onnxruntime|openvino) \S+ \(1, 4, 4\)$", said, re.MULTILINE)
    assert "bundle: nothing changed" in said
    assert re.search(r"^unknown-target 2$", said, re.MULTILINE)


def test_importing_it_imports_no_library() -> None:
    heavy = "torch onnx onnxruntime openvino tensorrt_rtx pydantic numpy"
    code = f"import sys, rtc.compiler\nprint([m for m in {heavy.split()} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
