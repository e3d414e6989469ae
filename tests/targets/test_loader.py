from __future__ import annotations

import subprocess
import sys

import pytest

from rtc.compiler.core.errors import MachineError, RecipeError
from rtc.compiler.core.target import Availability
from rtc.targets import loader
from rtc.targets.backends.openvino import OpenVino

BOARD = """
name: my-board
vendor: nvidia
kind: gpu
backends: [onnxruntime]
"""


def test_every_shipped_profile_is_named_after_its_file_and_says_where_its_figures_come_from():
    for name, device in loader.profiles().items():
        assert device.name == name
        assert device.source
        assert device.kind == "cpu" or (device.compute_capability and device.peaks)


def test_peaks_go_by_the_names_of_precisions():
    gpus = [device for device in loader.profiles().values() if device.kind == "gpu"]
    assert {frozenset(gpu.peaks.tflops) for gpu in gpus} == {frozenset({"fp32", "half", "int8"})}


def test_an_unknown_target_names_the_nearest():
    with pytest.raises(RecipeError) as caught:
        loader.profile("rtx4060")
    assert caught.value.id == "unknown-target"
    assert "rtx4060ti" in caught.value.fix


def test_a_profile_can_be_a_file(tmp_path):
    path = tmp_path / "board.yaml"
    path.write_text(BOARD)
    assert loader.profile(str(path)).name == "my-board"


def test_a_profile_survives_its_text():
    for device in loader.profiles().values():
        assert loader.parse_profile(loader.profile_text(device), "profile.yaml") == device


def test_a_relative_profile_lies_beside_who_names_it(tmp_path, monkeypatch):
    (tmp_path / "board.yaml").write_text(BOARD)
    monkeypatch.chdir("/")
    assert loader.profile("board.yaml", tmp_path).name == "my-board"


@pytest.mark.parametrize("name", ["../evil", "/tmp", "a/b", ".hidden", "''", "a\\nb"])
def test_a_profile_whose_name_is_no_folder_is_refused(tmp_path, name):
    path = tmp_path / "board.yaml"
    path.write_text(BOARD.replace("my-board", f'"{name}"'))
    with pytest.raises(RecipeError) as caught:
        loader.profile(str(path))
    assert (caught.value.id, caught.value.where) == ("device-name", f"{path}:2:7")


@pytest.mark.parametrize(
    ("change", "id", "place", "fix"),
    [
        ("memory: 8", "unknown-key", ":6:1", "memory_gb"),
        ("peaks: {bandwidth_gbs: 1, tflops: {}, tfops: {}}", "unknown-key", ":6:39", "tflops"),
        ("kind: tpu", "yaml", ":6:1", ":4:1"),
    ],
)
def test_a_fault_in_a_profile_is_told_with_its_place(tmp_path, change, id, place, fix):
    path = tmp_path / "board.yaml"
    path.write_text(f"{BOARD}{change}\n")
    with pytest.raises(RecipeError) as caught:
        loader.profile(str(path))
    assert caught.value.id == id
    assert caught.value.where == f"{path}{place}"
    assert fix in caught.value.fix


def test_a_profile_with_an_unknown_backend_names_the_nearest(tmp_path):
    path = tmp_path / "board.yaml"
    path.write_text(BOARD.replace("onnxruntime", "onnxruntme"))
    with pytest.raises(RecipeError) as caught:
        loader.profile(str(path))
    assert caught.value.where == f"{path}:5:12"
    assert '"onnxruntime"' in caught.value.fix


def test_an_unknown_backend_names_the_nearest():
    with pytest.raises(RecipeError, match="openvino") as caught:
        loader.backend("open-vino")
    assert caught.value.id == "unknown-backend"


def test_the_cpu_goes_on_with_the_runtimes_that_are_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert [b.name for b in loader.backends_for(loader.profile("cpu"))] == ["onnxruntime"]
    row = next(row for row in loader.survey() if row.profile.name == "cpu")
    assert row.buildable
    assert {r.backend: r.builds.fix for r in row.runtimes} == {
        "openvino": "pip install 'rtc-compiler[openvino]'",
        "onnxruntime": "",
    }


def test_a_target_without_any_runtime_names_the_command_that_installs_one(monkeypatch):
    absent = Availability(ok=False, missing="openvino is not installed", fix="pip install x")
    monkeypatch.setattr(OpenVino, "available", lambda self: absent)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MachineError) as caught:
        loader.backends_for(loader.profile("cpu"))
    assert (caught.value.id, caught.value.fix) == ("missing-extra", "pip install x")
    assert caught.value.where == "target cpu"


def test_a_device_that_needs_full_tensorrt_is_shown_as_not_buildable_and_why():
    row = next(row for row in loader.survey() if row.profile.name == "agx-orin-64")
    assert not row.buildable
    assert not row.runnable
    assert "full TensorRT" in row.runtimes[0].builds.missing
    with pytest.raises(MachineError) as caught:
        loader.backends_for(row.profile)
    assert caught.value.id == "no-backend"
    assert "cpu" in caught.value.fix


def test_looking_everything_up_imports_no_runtime():
    code = (
        "import sys\n"
        "from rtc.targets import loader\n"
        "loader.survey(); loader.backends_for(loader.profile('cpu'))\n"
        "heavy = {'onnx', 'onnxruntime', 'openvino', 'tensorrt_rtx', 'torch', 'polygraphy'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
