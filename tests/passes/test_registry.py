import subprocess
import sys

import pytest

from rtc.compiler.core.errors import RecipeError
from rtc.passes.registry import PASSES, pass_class


@pytest.mark.parametrize("name", sorted(PASSES))
def test_names_agree(name):
    found = pass_class(name)
    assert found.name == name
    assert PASSES[name] == f"rtc.passes.{name.replace('-', '_')}:{found.__name__}"


def test_an_unknown_pass_is_a_recipe_error():
    with pytest.raises(RecipeError, match="no pass is called 'fold-batchnrom'") as error:
        pass_class("fold-batchnrom")
    assert error.value.fix == 'did you mean "fold-batchnorm"?'


def test_looking_passes_up_imports_no_runtime():
    code = (
        "import sys\n"
        "from rtc.passes.registry import PASSES, pass_class\n"
        "for name in PASSES: pass_class(name)\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'onnx_graphsurgeon', 'modelopt', 'openvino'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
