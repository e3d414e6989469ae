"""What a measurement ran on, and with what. No host names, users or paths."""

from __future__ import annotations

import functools
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from rtc.compiler.core.target import Backend

DISTRIBUTIONS = (
    "rtc-compiler",
    "numpy",
    "onnx",
    "onnx-graphsurgeon",
    "onnxruntime",
    "polygraphy",
    "torch",
    "onnxscript",
    "nvidia-modelopt",
    "accelerate",
)
_FLAGS = (  # instructions that decide which kernels a runtime takes
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_int8",
    "asimddp",
    "i8mm",
    "bf16",
)
_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")


def machine() -> str:
    """The machine in a few words: "Intel(R) Xeon(R) Processor, 2 cores"."""
    facts = hardware()
    return f"{facts['cpu']}, {facts['cores']} cores"


def kernels_of(runtime: str, kind: str) -> str:
    """What tells which kernels an engine runs with here: the runtime, and the processor's kind."""
    facts = hardware()
    kinds = (facts["gpu"], facts["driver"]) if kind == "gpu" else (facts["instructions"],)
    return "; ".join((runtime, *kinds))


def device(kind: str) -> str:
    """What engines for a kind of device ("cpu", "gpu") are timed on here, in a few words."""
    facts = hardware()
    if kind != "gpu" or not facts["gpu"]:
        return machine()
    return f"{facts['gpu']}, driver {facts['driver']}, {machine()}"


@functools.cache
def hardware() -> dict[str, str]:
    """What of the machine a figure depends on; the same from run to run.

    Keys: cpu, instructions, cores (that this process may use), threads (likewise), memory, gpu,
    driver; "" where there is none.
    """
    gpu, driver = _gpu()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": _cpu_field("model name") or platform.machine(),
        "instructions": _instructions(),
        "cores": str(physical_cores()),
        "threads": str(len(os.sched_getaffinity(0))),
        "memory": f"{pages / 1e9:.0f} GB",
        "gpu": gpu,
        "driver": driver,
    }


def _instructions() -> str:
    """The processor's, and the limit that oneDNN is told to keep, if it is."""
    flags = [flag for flag in _FLAGS if flag in _cpu_flags()]
    limits = [f"{name}={os.environ[name]}" for name in _LIMITS if os.environ.get(name)]
    return " ".join(flags + limits)


def software(runtimes: Sequence[Backend] = ()) -> dict[str, str]:
    """Operating system, Python, and the version of every library and runtime that takes part."""
    system = {
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
    libraries = {name: v for name in DISTRIBUTIONS if (v := _version(name))}
    return system | libraries | {runtime.name: runtime.available().version for runtime in runtimes}


@functools.cache
def physical_cores() -> int:
    """Cores behind the logical processors that this process may use; at least 1.

    In a container with a quota of processor time, no more than that allows.
    """
    quota = _quota()
    return min(_cores(), max(1, math.ceil(quota))) if quota else _cores()


def _quota() -> float | None:
    """Processors that the control group may use on average; None where it says nothing."""
    limit, _, period = _read(Path("/sys/fs/cgroup/cpu.max")).strip().partition(" ")  # version 2
    if not limit:
        limit = _read(Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")).strip()
        period = _read(Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")).strip()
    if not (limit.isdigit() and period.isdigit() and int(period)):
        return None
    return int(limit) / int(period)


def _cores() -> int:
    allowed = os.sched_getaffinity(0)
    cores = set()
    for block in _read(Path("/proc/cpuinfo")).strip().split("\n\n"):
        fields = dict(_fields(block))
        if fields.get("processor", "").isdigit() and int(fields["processor"]) in allowed:
            package = fields.get("physical id", "0")
            cores.add((package, fields.get("core id", fields["processor"])))
    return len(cores) or len(allowed)


def _fields(block: str) -> list[tuple[str, str]]:
    lines = (line.partition(":") for line in block.splitlines())
    return [(name.strip(), value.strip()) for name, _, value in lines]


def _cpu_field(name: str) -> str:
    return dict(_fields(_read(Path("/proc/cpuinfo")).partition("\n\n")[0])).get(name, "")


def _cpu_flags() -> set[str]:
    return set((_cpu_field("flags") or _cpu_field("Features")).split())


def _gpu() -> tuple[str, str]:
    """The first GPU and its driver, as nvidia-smi tells them; ("", "") without one."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return "", ""
    query = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)  # noqa: S603 - a fixed query
    except (OSError, subprocess.SubprocessError):
        return "", ""
    name, _, driver = done.stdout.partition("\n")[0].partition(",")
    return name.strip(), driver.strip()


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
