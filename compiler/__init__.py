"""The framework: it knows passes and targets by their interfaces only.

What users need of it is here, by name (docs/python-api.md):

    from rtc.compiler import compile, load
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rtc.compiler.bundle.engine import Engine, load
    from rtc.compiler.core.data import Dataset, Preprocess
    from rtc.compiler.core.errors import (
        BuilderError,
        DataError,
        GateError,
        IntegrityError,
        MachineError,
        ModelError,
        RecipeError,
        RtcError,
    )
    from rtc.compiler.core.passes import Bounded, Exact, Pass, PassContext, PassResult, Sound
    from rtc.compiler.core.progress import Listener, Nobody
    from rtc.compiler.core.results import Report
    from rtc.compiler.core.unit import Level, OnnxModel, Unit
    from rtc.compiler.pipeline import CompileResult, compile  # noqa: A004 - the verb of this tool
    from rtc.compiler.recipe.schema import Recipe, load_recipe

__all__ = [
    "Bounded",
    "BuilderError",
    "CompileResult",
    "DataError",
    "Dataset",
    "Engine",
    "Exact",
    "GateError",
    "IntegrityError",
    "Level",
    "Listener",
    "MachineError",
    "ModelError",
    "Nobody",
    "OnnxModel",
    "Pass",
    "PassContext",
    "PassResult",
    "Preprocess",
    "Recipe",
    "RecipeError",
    "Report",
    "RtcError",
    "Sound",
    "Unit",
    "compile",
    "load",
    "load_recipe",
]

_HOMES = {
    "pipeline": ("compile", "CompileResult"),
    "recipe.schema": ("load_recipe", "Recipe"),
    "bundle.engine": ("load", "Engine"),
    "core.results": ("Report",),
    "core.progress": ("Listener", "Nobody"),
    "core.data": ("Dataset", "Preprocess"),
    "core.passes": ("Pass", "PassContext", "PassResult", "Exact", "Bounded", "Sound"),
    "core.unit": ("Unit", "OnnxModel", "Level"),
    "core.errors": tuple(name for name in __all__ if name.endswith("Error")),
}
_HOME_OF = {name: f"rtc.compiler.{module}" for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import on first use: `rtc --help` must not wait for what it does not need."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
