"""Modules beside a recipe: they can be imported while that recipe is worked on, and only then."""

from __future__ import annotations

import sys
from pathlib import Path

from rtc.compiler.recipe.source_code import forget_changed_code, forget_code_in

_admitted: set[Path] = set()  # folders of recipes whose modules can be imported


def admit_modules_in(folder: Path) -> None:
    """Let modules be found that lie in a recipe's folder, and in no other recipe's.

    Two recipes may each have a `net.py`: what an earlier recipe brought in leaves. So does what was
    edited since it was imported.
    """
    folder = folder.resolve()
    for earlier in _admitted - {folder}:
        sys.path[:] = [entry for entry in sys.path if entry != str(earlier)]
        for name, module in list(sys.modules.items()):
            beside = Path(getattr(module, "__file__", None) or "/").parent == earlier
            if beside and name != "__main__":
                del sys.modules[name]
        forget_code_in(earlier)
        _admitted.discard(earlier)
    forget_changed_code()
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
        _admitted.add(folder)
