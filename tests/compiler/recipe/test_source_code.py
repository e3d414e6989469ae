"""Which files a reference stands on: those that are imported, wherever, and no others."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from unittest.mock import ANY

import pytest

from rtc.compiler.core.naming import load_object
from rtc.compiler.recipe.source_code import forget_changed_code, missing_parts, referenced_code

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module of the user's."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def written(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    yield written
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in {"netx", "partx", "packx"}:
            sys.modules.pop(name)


@pytest.mark.parametrize(
    "text",
    [
        "import partx",
        "import partx as p, os",
        "from partx import A",
        "def make():\n    from partx import A",
        "def make():\n    if 0:\n        import partx",
        "import importlib\ndef make():\n    importlib.import_module('partx')",
        "__import__('partx')",
        "try:\n    import not_there\nexcept ImportError:\n    import partx",
    ],
)
def test_what_a_module_imports_counts_wherever_it_does(write: Write, text: str) -> None:
    write("netx.py", text)
    write("partx.py", "A = 1")
    write("other.py", "A = 1")
    before = referenced_code({"factory": "netx:make", "lr": 0.1})
    assert set(before) == {"netx.py", "partx.py"}
    write("other.py", "A = 2")
    assert referenced_code(["netx:make"]) == before
    write("partx.py", "A = 2")
    assert referenced_code("netx:make")["partx.py"] != before["partx.py"]
    assert "netx" not in sys.modules  # nothing ran for it


@pytest.mark.parametrize(
    "text",
    [
        "from importlib import import_module\nimport_module(NAME)",
        "import importlib.util as u\nu.spec_from_file_location('x', PATH)",
        "from importlib import import_module as im\nim(NAME)",
        "import importlib\nload = importlib.import_module\nload(NAME)",
        "import pydoc\npydoc.locate(NAME)",
        "from pkgutil import resolve_name\nresolve_name(NAME)",
        "exec(open(PATH).read())",
    ],
)
def test_where_the_text_does_not_tell_everything_beside_counts(write: Write, text: str) -> None:
    write("netx.py", text)
    write("other.py", "")
    assert {"netx.py", "other.py"} <= set(referenced_code("netx:make"))


def test_what_lies_where_the_code_looks_for_it_is_not_missed(write: Write) -> None:
    write("netx.py", "import hiddenx\ndef make(): ...")
    assert [what for what, _ in missing_parts("netx:make")] == [
        "netx.py imports hiddenx, which is not there"
    ]
    write("netx.py", "import sys\nsys.path.insert(0, '/x')\nimport hiddenx\ndef make(): ...")
    assert list(missing_parts("netx:make")) == []


def test_a_module_that_is_not_there_is_told_with_where_it_was_looked_for(write: Write) -> None:
    folder = write("netx.py", "def make(): ...").parent.resolve()
    ((what, fix),) = missing_parts("netxx:make")
    assert what == "no module named netxx"
    assert str(folder) in fix
    assert 'did you mean "netx"?' in fix
    ((_, fix),) = missing_parts("quite_another:make")
    assert "put quite_another.py there" in fix


def test_what_only_looks_like_it_is_told(write: Write) -> None:
    write("netx.py", "import re\nre.compile('a')\nmodel.eval()")
    write("other.py", "")
    assert set(referenced_code("netx:make")) == {"netx.py"}


def test_a_star_brings_in_every_module_of_a_package(write: Write) -> None:
    write("netx.py", "from packx import *")
    write("packx/__init__.py", "__all__ = ['small']")
    small = write("packx/small.py", "A = 1")
    before = referenced_code("netx:make")
    small.write_text("A = -1")
    assert referenced_code("netx:make") != before


def test_of_a_package_what_is_imported_counts_and_what_surrounds_it(write: Write) -> None:
    write("packx/__init__.py", "")
    write("packx/deep/__init__.py", "from . import base")
    write("packx/deep/net.py", "from .parts import A\nfrom ..common import *")
    for name in ("deep/base", "deep/parts", "common", "unused"):
        write(f"packx/{name}.py", "")
    assert set(referenced_code("packx.deep.net:make")) == {
        f"packx/{name}.py"
        for name in ("__init__", "deep/__init__", "deep/net", "deep/base", "deep/parts", "common")
    }


def test_folders_need_no_init_and_circles_end(write: Write) -> None:
    write("packx/net.py", "import packx.parts")
    write("packx/parts.py", "import packx.net")
    assert set(referenced_code("packx.net:make")) == {"packx/net.py", "packx/parts.py"}


def test_a_folder_without_an_init_in_a_package_that_nobody_imported(write: Write) -> None:
    write("packx/__init__.py", "")
    write("packx/deep/inner/net.py", "from packx.deep.inner.parts import A")
    write("packx/deep/inner/parts.py", "")
    assert set(referenced_code("packx.deep.inner.net:make")) >= {
        "packx/__init__.py",
        "packx/deep/inner/net.py",
        "packx/deep/inner/parts.py",
    }
    assert referenced_code("packx.not_there.net:make") == {"packx/__init__.py": ANY}


def test_what_is_installed_in_a_folder_of_its_own_counts_by_its_release(write: Write) -> None:
    """As by `pip install --target`."""
    write("netx.py", "import packx.deep")
    write("packx/__init__.py", "")
    write("packx/deep.py", "import partx")
    write("partx.py", "")
    write("pack_x-1.2.3.dist-info/RECORD", "packx/__init__.py,,\npackx/deep.py,,\n")
    found = referenced_code("netx:make")
    assert set(found) == {"netx.py", "packx"}
    assert found["packx"] == "1.2.3"


def test_of_installed_packages_the_release_counts(write: Write) -> None:
    write("netx.py", "import numpy.linalg, yaml, json")
    found = referenced_code("netx:make")
    assert set(found) == {"netx.py", "numpy", "yaml"}
    assert found["numpy"] == version("numpy")
    assert found["yaml"] == version("PyYAML")  # its distribution has another name


def test_a_module_that_comes_to_be_there_counts(write: Write) -> None:
    write("netx.py", "try:\n    import partx\nexcept ImportError:\n    pass")
    assert set(referenced_code("netx:make")) == {"netx.py"}
    write("partx.py", "")
    assert set(referenced_code("netx:make")) == {"netx.py", "partx.py"}


def test_text_that_is_no_python_is_left_to_who_imports_it(write: Write) -> None:
    write("netx.py", "def make(:")
    assert set(referenced_code("netx:make")) == {"netx.py"}
    assert referenced_code(["not there:make", "nowhere:make", "rtc.recipes.models.x:y"]) == {}


def test_code_that_was_edited_is_imported_anew(write: Write) -> None:
    write("netx.py", "import partx\nB = partx.A")
    write("partx.py", "A = 1")
    referenced_code("netx:B")
    assert load_object("netx:B", where="") == 1
    forget_changed_code()
    assert "netx" in sys.modules
    write("partx.py", "A = 22")
    forget_changed_code()
    assert load_object("netx:B", where="") == 22
