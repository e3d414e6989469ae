"""What `rtc doctor` looks at. Every look is cheap, and none imports a runtime."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rtc.compiler.core.errors import MachineError, RtcError

_REQUIRED = ("numpy", "onnx", "onnxruntime", "onnx-graphsurgeon", "polygraphy", "pydantic")
_EXTRAS = {
    "torch": ("torch", "nvidia-modelopt", "accelerate", "onnxscript"),
    "demo": ("mlxtend",),
}
_ENOUGH_FREE_GB = 2.0


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `fix` is a command or an advice where something is to be done."""

    subject: str
    ok: bool
    found: str
    fix: str = ""


def examine() -> tuple[Finding, ...]:
    """Look at everything, in the order in which a person would mend it."""
    return (_python(), *_packages(), _machine(), _gpu(), *_folders(), *_targets())


def own_version() -> str:
    """Rtc's version; a source tree on the path has no metadata that would tell."""
    return _version("rtc-compiler") or "of a source tree (not installed)"


def _python() -> Finding:
    summary = f"{platform.python_version()} at {sys.executable}, rtc {own_version()}"
    return Finding("python", ok=True, found=summary)


def _packages() -> tuple[Finding, ...]:
    install = "pip install 'rtc-compiler{}'"
    required = _group("required packages", _REQUIRED, install.format(""))
    extras = [
        _group(f"extra {extra}", names, install.format(f"[{extra}]"))
        for extra, names in _EXTRAS.items()
    ]
    return (required, *extras, *_runtimes())


def _runtimes() -> tuple[Finding, ...]:
    """One finding for each runtime that is registered, of other packages too."""
    from rtc.targets.loader import BACKENDS, backend

    findings = []
    for name in BACKENDS.known():
        try:
            here = backend(name).available()
        except RtcError as error:
            findings.append(Finding(f"runtime {name}", ok=False, found=str(error), fix=error.fix))
        else:
            seen = here.version if here.ok else here.missing
            findings.append(Finding(f"runtime {name}", ok=here.ok, found=seen, fix=here.fix))
    return tuple(findings)


def _group(subject: str, names: tuple[str, ...], fix: str) -> Finding:
    versions = {name: _version(name) for name in names}
    missing = [name for name, release in versions.items() if release is None]
    listed = ", ".join(
        f"{name} {release}" for name, release in versions.items() if release is not None
    )
    if not missing:
        return Finding(subject, ok=True, found=listed)
    return Finding(subject, ok=False, found=f"missing {', '.join(missing)}", fix=fix)


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _machine() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    compilers = [name for name in ("c++", "g++", "clang++") if shutil.which(name)]
    summary = f"{usable} cores, {platform.machine()}, {platform.system()} {platform.release()}, "
    return Finding(
        "machine", ok=True, found=summary + f"C++ compiler: {(compilers or ['none'])[0]}"
    )


def _gpu() -> Finding:
    """What the driver says; without one, engines can still be built for the GPUs of `targets`."""
    program = shutil.which("nvidia-smi")
    none = Finding("gpu", ok=True, found="none; GPU engines can be built here, and run elsewhere")
    if program is None:
        return none
    query = "--query-gpu=name,compute_cap,memory.total,driver_version"
    try:
        asked = subprocess.run(  # noqa: S603 - the program that PATH names, with fixed arguments
            [program, query, "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        said = (error.stdout + error.stderr).strip().splitlines()
        return Finding("gpu", ok=False, found=f"nvidia-smi: {said[0] if said else error}")
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("gpu", ok=False, found=f"nvidia-smi: {error}")
    listed = "; ".join(" ".join(line.split()) for line in asked.stdout.splitlines())
    return Finding("gpu", ok=True, found=listed) if listed else none


def _folders() -> tuple[Finding, ...]:
    from rtc.compiler.storage.store import Store

    try:
        cache = _folder("cache", Store.default().root, "set RTC_CACHE to another folder")
    except MachineError as error:
        cache = Finding("cache", ok=False, found=error.what, fix=error.fix)
    return (cache, _folder("current folder", Path.cwd(), "compile with --out elsewhere"))


def _folder(subject: str, folder: Path, fix: str) -> Finding:
    """Whether a folder (or the nearest parent there is) can be written to, and has room."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            free_gb = shutil.disk_usage(existing).free / 1e9
    except OSError as error:
        state = f"{folder}: cannot be written to: {error.strerror}"
        return Finding(subject, ok=False, found=state, fix=fix)
    enough = free_gb >= _ENOUGH_FREE_GB
    state = f"{folder}: {free_gb:.1f} GB free"
    return Finding(subject, enough, state, "" if enough else f"free some space, or {fix}")


def _targets() -> tuple[Finding, ...]:
    """One finding for each target that can be built here, and one for the others."""
    from rtc.targets.loader import survey

    try:
        rows = survey()
    except RtcError as error:
        return (Finding("targets", ok=False, found=str(error), fix=error.fix),)
    findings = [
        Finding(f"target {row.profile.name}", ok=True, found=_runs(row.runnable))
        for row in rows
        if row.buildable
    ]
    others = [row.profile.name for row in rows if not row.buildable]
    if others:
        state = f"cannot be built here: {', '.join(others)}"
        findings.append(Finding("other targets", ok=False, found=state, fix="see rtc targets"))
    return tuple(findings)


def _runs(runnable: bool) -> str:
    return "can be built and run here" if runnable else "can be built here; runs elsewhere"
