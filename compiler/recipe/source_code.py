"""Which source a reference of a recipe stands on: the modules that it imports, and theirs.

Read from the text, so that nothing runs for it. What is imported inside a function counts too. Of
installed packages the release counts, and not every file. Where a file imports what its text does
not tell (a module by a computed name, a file by its path), everything beside it counts.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rtc.compiler.core.errors import first_line
from rtc.compiler.core.hashing import digest, file_digest
from rtc.compiler.core.naming import INSTALLED, REFERENCE, nearest, where_looked
from rtc.compiler.core.unit import Level, Unit
from rtc.compiler.recipe.own_code import code_of

_BY_NAME = frozenset({"import_module", "__import__"})
_UNTOLD = _BY_NAME | {
    "SourceFileLoader", "exec_module", "locate", "resolve_name", "run_module", "run_path",
    "spec_from_file_location",
}  # fmt: skip
"""What brings code in that the text does not tell; "import_module" may be given a constant."""
_RUNS_TEXT = frozenset({"compile", "eval", "exec"})  # as names alone: torch.compile is another
_counted: dict[str, tuple[Path, str]] = {}  # module: its file, and the digest that was counted


def referenced_code(value: Any) -> dict[str, str]:
    """Digests by file of the code behind what a JSON value refers to as "package.module:name".

    Of an installed package: its release, by its name. Of rtc's own modules: one digest for each and
    all that it imports.
    """
    importlib.invalidate_caches()  # a file may be younger than what the finders know
    modules: dict[str, _Module] = {}
    for name in _references(value):
        _follow(name, modules)
    _counted.update((n, (m.path, m.mark)) for n, m in modules.items() if m.path is not None)
    return {each.label: each.mark for each in modules.values() if each.mark}


def code_behind(classes: Iterable[type]) -> dict[str, str]:
    """Digests, as `referenced_code`'s, of what other people's classes stand on; of rtc's: none."""
    modules = {kind_.__module__ for kind_ in classes}
    return referenced_code(sorted(f"{m}:x" for m in modules if not f"{m}.".startswith("rtc.")))


def missing_parts(reference: str) -> Iterator[tuple[str, str]]:
    """What is not there of an object that "package.module:name" names: what, and how to mend it.

    Nothing for text of another form. Told from the text of modules alone: an attribute that a
    module makes when it runs counts as there.
    """
    if not REFERENCE.match(reference):
        return
    importlib.invalidate_caches()
    module, _, attribute = reference.partition(":")
    spec = _spec(module)
    if spec is None:
        yield f"no module named {module}", where_looked(module)
        return
    modules: dict[str, _Module] = {}
    _follow(module, modules)
    own = [each for each in modules.values() if each.path is not None]
    moved = any(_moves_the_path(each) for each in own)
    for each in own:
        yield from _not_importable(each, elsewhere=moved)
    if spec.has_location and spec.origin and spec.origin.endswith(".py"):
        names = _defined(Path(spec.origin))
        if names is not None and attribute not in names:
            yield f"{module} has no {attribute!r}", nearest(attribute, names)


def _moves_the_path(module: _Module) -> bool:
    """Whether a module may look for others where nobody looks before it has run."""
    assert module.path is not None, "a module of the user's own"
    return module.path.suffix == ".py" and b"sys.path" in module.path.read_bytes()


def _not_importable(module: _Module, *, elsewhere: bool) -> Iterator[tuple[str, str]]:
    """Why importing a module of the user's would fail: its text, or a package that is not there.

    `elsewhere`: modules may lie where only running the code tells.
    """
    assert module.path is not None, "a module of the user's own"
    if module.path.suffix != ".py":
        return
    try:
        tree = ast.parse(module.path.read_bytes())
    except (SyntaxError, ValueError) as error:
        yield f"{module.label} is not Python: {first_line(error)}", "mend it"
        return
    for node in () if elsewhere else tree.body:  # what stands deeper may never be imported
        given = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            given = [node.module]
        for top in (name.partition(".")[0] for name in given):
            if top not in sys.stdlib_module_names and top != "rtc" and _spec(top) is None:
                yield f"{module.label} imports {top}, which is not there", f"install {top}"


def _defined(path: Path) -> set[str] | None:
    """The names that a module's text defines at its top; None where it may define any."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return None
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name.partition(".")[0])
    dynamic = {"*", "__getattr__", "globals", "exec", "setattr", "vars", "_LazyModule"}
    called = {_called(node) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return None if dynamic & (names | called) else names


def with_code(unit: Unit) -> Unit:
    """A PyTorch unit that tells which source it stands on; an ONNX unit as it is."""
    if unit.level is Level.ONNX:
        return unit
    model = unit.torch
    code = digest(referenced_code([model.factory, model.options]))
    return replace(unit, model=replace(model, code=code))


def forget_changed_code() -> None:
    """Let modules be imported anew if any that was counted is not what it was then.

    All of them: one that stayed the same may hold what it took from one that changed.
    """
    if any(not path.is_file() or file_digest(path) != seen for path, seen in _counted.values()):
        _forget(list(_counted))


def forget_code_in(folder: Path) -> None:
    """Let modules that were counted, and lie in a folder or below it, be imported anew."""
    _forget([name for name, (path, _) in _counted.items() if folder in path.resolve().parents])


def _forget(names: list[str]) -> None:
    for name in names:
        sys.modules.pop(name, None)
        _counted.pop(name, None)


@dataclass(frozen=True)
class _Module:
    """A module that was found; `path` where it is a file of the user's own."""

    label: str
    mark: str  # the file's digest, or the release it is of; "" where there is nothing to tell
    path: Path | None = None


def _references(value: Any) -> Iterator[str]:
    """The modules that a JSON value refers to."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _references(item)
    elif isinstance(value, str) and REFERENCE.match(value):
        yield value.partition(":")[0]


def _follow(name: str, modules: dict[str, _Module]) -> None:
    """Add a module, the packages around it, and everything that they import."""
    top = name.partition(".")[0]
    if name in modules or top in sys.stdlib_module_names:
        return
    if top == "rtc":
        if _spec(name) is not None:
            modules[name] = _Module(name, code_of([name]))
        return
    parent = name.rpartition(".")[0]
    if parent:
        _follow(parent, modules)
    spec = _spec(name)
    if spec is None or _is_told(modules.get(top)):
        return
    origin = Path(spec.origin) if spec.has_location and spec.origin else None
    if origin is not None and (release := _release(top, origin)):
        modules.setdefault(top, _Module(top, release))
        return
    if origin is None:  # a folder without an __init__.py
        modules[name] = _Module(name, "")
        return
    package = spec.submodule_search_locations is not None
    stem = f"{name.replace('.', '/')}/__init__" if package else name.replace(".", "/")
    modules[name] = _Module(f"{stem}{origin.suffix}", file_digest(origin), origin)
    if origin.suffix == ".py":
        for imported in _imports(origin, name, package=package):
            _follow(imported, modules)


def _is_told(top: _Module | None) -> bool:
    """Whether the release of a top package says all of what lies in it."""
    return top is not None and top.path is None and bool(top.mark)


def _spec(name: str) -> ModuleSpec | None:
    """Where a module lies; neither it nor the packages around it are imported for that."""
    top, _, rest = name.partition(".")
    if top == "rtc":  # what lies around it is no secret, and installed in a way of its own
        return _of_rtc(name)
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # of a module that was made by hand
        return None
    reached = top
    for part in rest.split(".") if rest else ():
        if spec is None or spec.submodule_search_locations is None:
            return None
        reached = f"{reached}.{part}"
        spec = _below(reached, list(spec.submodule_search_locations))
    return spec


def _below(name: str, folders: Sequence[str]) -> ModuleSpec | None:
    """Where a module lies in a package whose folders these are."""
    try:
        return PathFinder.find_spec(name, folders)
    except KeyError:  # it is a folder without an __init__.py, and its package is not imported
        spec = ModuleSpec(name, None, is_package=True)
        inner = (Path(folder) / name.rpartition(".")[2] for folder in folders)
        spec.submodule_search_locations = [str(each) for each in inner if each.is_dir()]
        return spec


def _of_rtc(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None


def _release(top: str, origin: Path) -> str:
    """The release of an installed package; "" of a module of the user's own.

    Found by its name or by what the distributions beside it list, wherever that is: `pip install
    --target` may put it in any folder.
    """
    in_site = bool(INSTALLED & set(origin.parts))
    if in_site:
        with suppress(PackageNotFoundError):
            return version(top)
    site = origin.parents[1] if origin.name.startswith("__init__.") else origin.parent
    for record in sorted(site.glob("*.dist-info/RECORD")):
        with record.open(encoding="utf-8", errors="replace") as lines:
            if any(line.startswith((f"{top}/", f"{origin.name},")) for line in lines):
                return record.parent.name.removesuffix(".dist-info").rpartition("-")[2]
    return file_digest(origin) if in_site else ""


def _imports(path: Path, name: str, *, package: bool) -> Iterator[str]:
    """The modules that a source file may import, some of which may not be there."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return  # whoever imports it will be told
    around = name if package else name.rpartition(".")[0]
    constant_calls: set[ast.AST] = set()  # calls by a constant name
    for node in ast.walk(tree):  # a call comes before the name that it calls
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from _imported_from(node, around)
        elif isinstance(node, ast.Call) and (given := _constant_name(node)):
            constant_calls.add(node.func)
            yield from _named(given, around)
        if _is_untold(node) and node not in constant_calls:
            yield from _all_beside(path, around)


def _constant_name(call: ast.Call) -> str:
    """The module that a call imports by a constant name; "" of any other call."""
    given = call.args[0] if call.args and _called(call) in _BY_NAME else None
    return given.value if isinstance(given, ast.Constant) and isinstance(given.value, str) else ""


def _is_untold(node: ast.AST) -> bool:
    """Whether a node stands for what brings code in, be it called here or handed on."""
    if isinstance(node, ast.Attribute):
        return node.attr in _UNTOLD
    if isinstance(node, ast.ImportFrom):
        return any(name.asname and name.name in _UNTOLD for name in node.names)
    return isinstance(node, ast.Name) and node.id in _UNTOLD | _RUNS_TEXT


def _imported_from(node: ast.ImportFrom, around: str) -> Iterator[str]:
    base = node.module or ""
    if node.level:
        base = _named_from("." * node.level + base, around)
    if not base:
        return
    yield base
    for alias in node.names:
        if alias.name == "*":  # whatever `__all__` names, modules that it then imports among it
            yield from (f"{base}.{each}" for each in _modules_of(base))
        else:
            yield f"{base}.{alias.name}"


def _modules_of(package: str) -> Iterator[str]:
    """The modules that lie in a package."""
    spec = _spec(package)
    if spec is not None and spec.submodule_search_locations is not None:
        yield from (module.name for module in pkgutil.iter_modules(spec.submodule_search_locations))


def _named(name: str, around: str) -> Iterator[str]:
    resolved = _named_from(name, around) if name.startswith(".") else name
    if resolved:
        yield resolved


def _named_from(relative: str, around: str) -> str:
    """The absolute name of a relative one; "" where it leads out of the top package."""
    try:
        return importlib.util.resolve_name(relative, around) if around else ""
    except ImportError:
        return ""


def _called(node: ast.Call) -> str:
    """The last part of what is called: "import_module" of importlib.import_module(…)."""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _all_beside(path: Path, around: str) -> Iterator[str]:
    """Every module that a file could mean: of its whole package, or of the folder it lies in."""
    depth = around.count(".") + 1 if around else 0
    root = path.parents[depth]
    files = (root / around.partition(".")[0]).rglob("*.py") if around else root.glob("*.py")
    for file in sorted(files):
        parts = file.relative_to(root).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
