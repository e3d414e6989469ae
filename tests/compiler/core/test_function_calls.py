from __future__ import annotations

import numpy as np
import onnx
from one_operator import answers, model_of

from rtc.compiler.core.function_calls import DOMAIN, Calls

TEXT = """
g (float[N,3] x) => (float[N,3] y) {
  a = LeakyRelu<alpha=0.25>(x) y = LeakyRelu<alpha=0.5>(a)
}
"""


def test_nodes_become_calls_of_one_function_and_keep_their_outputs() -> None:
    model = model_of(TEXT, {})
    calls = Calls(model, {})
    for node in model.graph.node:
        operands = {"a": node.input[0], "half": calls.constant(0.5)}
        body = "low = Mul (a, half)\nb = LeakyRelu <alpha: float = @alpha> (low)\n"
        calls.call(node, "Halved", operands, body, attributes=["alpha"], outputs=["b"])
    made = onnx.load_model_from_string(calls.finish())
    assert [(node.domain, node.op_type) for node in made.graph.node] == [(DOMAIN, "Halved")] * 2
    assert [function.name for function in made.functions] == ["Halved"]
    onnx.checker.check_model(made, full_check=True)
    x = np.array([[-8.0, 0.0, 8.0]], np.float32)
    np.testing.assert_array_equal(answers(made, {"x": x})[0], [[-0.25, 0.0, 2.0]])


def test_a_model_without_operators_of_onnx_gets_an_opset_for_the_functions() -> None:
    model = model_of("g (float[N,3] x) => (float[N,3] y) { y = com.microsoft.Gelu(x) }", {})
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    calls = Calls(model, {})
    calls.call(model.graph.node[0], "Same", {"a": "x"}, "y = Identity (a)\n")
    made = onnx.load_model_from_string(calls.finish())
    assert {opset.domain for opset in made.opset_import} == {"", "com.microsoft", DOMAIN}
    x = np.ones((1, 3), np.float32)
    np.testing.assert_array_equal(answers(made, {"x": x})[0], x)
