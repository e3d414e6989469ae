"""Whether a runtime is installed, found without importing it."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec

from rtc.compiler.core.target import Availability


def installed(module: str, *, distribution: str = "", extra: str) -> Availability:
    """Availability of a runtime by its module; `extra` is rtc's extra that installs it."""
    package = f"rtc-compiler[{extra}]" if extra else "rtc-compiler"
    try:
        if find_spec(module) is not None:
            return Availability(ok=True, version=metadata.version(distribution or module))
    except metadata.PackageNotFoundError:
        return Availability(ok=True, version="unknown")  # installed under another name, or by hand
    return Availability(
        ok=False,
        missing=f"{distribution or module} is not installed",
        fix=f"pip install '{package}'",
    )
