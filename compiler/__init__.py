"""The framework: it knows passes and targets by their interfaces only.

from rtc.compiler import compile, load
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtc.compiler.bundle.engine import Engine, load
    from rtc.compiler.pipeline import CompileResult, compile  # noqa: A004 - the verb of this tool

__all__ = ["CompileResult", "Engine", "compile", "load"]

_HOMES = {
    "CompileResult": "rtc.compiler.pipeline",
    "Engine": "rtc.compiler.bundle.engine",
    "compile": "rtc.compiler.pipeline",
    "load": "rtc.compiler.bundle.engine",
}


def __getattr__(name: str) -> Any:
    """Import on first use: `rtc --help` must not wait for what it does not need."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
