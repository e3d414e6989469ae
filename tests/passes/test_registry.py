import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rtc.passes
from rtc.compiler.core.errors import RecipeError
from rtc.compiler.core.naming import load_object
from rtc.compiler.core.passes import Pass
from rtc.passes.registry import PASSES, PER_TARGET, pass_class


@pytest.mark.parametrize("name", sorted(PASSES))
def test_names_agree(name):
    found = load_object(PASSES[name], where="test")
    assert found.name == name
    assert found.__module__.rpartition(".")[2] == name.replace("-", "_")
    assert PASSES[name] == f"{found.__module__}:{found.__name__}"


def test_every_pass_of_rtc_is_registered():
    """Each module of a room that defines a pass that can be made."""
    modules = [m.name for m in pkgutil.walk_packages(rtc.passes.__path__, "rtc.passes.")]
    defined = {
        f"{name}:{kind.__name__}"
        for name in modules
        for kind in vars(importlib.import_module(name)).values()
        if isinstance(kind, type)
        and issubclass(kind, Pass)
        and kind.__module__ == name
        and not inspect.isabstract(kind)
    }
    assert defined == set(PASSES.values())


def test_rtcs_own_are_registered_as_others_are():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    section = text.partition('[project.entry-points."rtc.passes"]\n')[2].partition("\n[")[0]
    assert dict(re.findall(r'^([\w-]+) = "(.*)"$', section, re.MULTILINE)) == PASSES


@pytest.mark.parametrize("name", sorted(PER_TARGET))
@pytest.mark.parametrize("by", [str, PASSES.__getitem__])
def test_a_pass_that_runs_per_target_is_refused_in_a_recipe(name, by):
    with pytest.raises(RecipeError, match=f"{name} runs once per target by itself") as error:
        pass_class(by(name))
    assert PER_TARGET[name] in error.value.fix


def test_an_unknown_pass_is_a_recipe_error():
    with pytest.raises(RecipeError, match="there is no pass 'fold-batchnrom'") as error:
        pass_class("fold-batchnrom")
    assert error.value.fix == 'did you mean "fold-batchnorm"?'


def test_looking_passes_up_imports_no_runtime():
    code = (
        "import sys\n"
        "from rtc.passes.registry import PASSES, PER_TARGET, pass_class\n"
        "for name in set(PASSES) - set(PER_TARGET): pass_class(name)\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'onnx_graphsurgeon', 'modelopt', 'openvino'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
