from __future__ import annotations

import getpass
import json
import math
import os
import platform
import subprocess
import sys

import pytest

from rtc.compiler.measure import provenance


def test_the_machine_is_told_by_processor_and_cores() -> None:
    facts = provenance.hardware()
    assert facts["cpu"] in provenance.machine()
    assert 1 <= int(facts["cores"]) <= int(facts["threads"]) == len(os.sched_getaffinity(0))
    assert facts["memory"].endswith(" GB")


@pytest.mark.parametrize(
    ("said", "quota"),
    [
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}, None),
        ({"cpu.cfs_quota_us": "400000", "cpu.cfs_period_us": "100000"}, 4.0),
        ({}, None),
    ],
)
def test_a_container_s_quota_of_processors(
    monkeypatch: pytest.MonkeyPatch, said: dict[str, str], quota: float | None
) -> None:
    monkeypatch.setattr(provenance, "_read", lambda path: said.get(path.name, ""))
    assert provenance._quota() == quota
    monkeypatch.setattr(provenance, "_cores", lambda: 64)
    assert provenance.physical_cores.__wrapped__() == (math.ceil(quota) if quota else 64)


def test_what_a_gpu_was_timed_on_names_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {**provenance.hardware(), "gpu": "NVIDIA GeForce RTX 4060 Ti", "driver": "580.1"}
    monkeypatch.setattr(provenance, "hardware", lambda: facts)
    told = "NVIDIA GeForce RTX 4060 Ti, driver 580.1"
    assert provenance.device("gpu").startswith(told)
    assert provenance.device("cpu") == provenance.machine()
    assert told not in provenance.device("cpu")


def test_versions_are_those_of_the_installed_libraries() -> None:
    import numpy as np

    told = provenance.software()
    assert told["numpy"] == np.__version__
    assert told["python"] == platform.python_version()
    assert "" not in told.values()


def test_nothing_names_the_host_the_user_or_a_path() -> None:
    text = json.dumps([provenance.hardware(), provenance.software()])
    for secret in (platform.node(), getpass.getuser(), os.path.expanduser("~"), os.getcwd()):  # noqa: PTH111, PTH109 - as text
        assert f'"{secret}' not in text


def test_versions_are_read_without_importing_the_libraries() -> None:
    program = (
        "import sys; from rtc.compiler.measure import provenance; provenance.software();"
        "sys.exit(bool({'torch', 'onnxruntime', 'openvino', 'onnx'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
