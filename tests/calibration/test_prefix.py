from __future__ import annotations

import numpy as np
import onnx
from check_pass import parse

from rtc.calibration.oracle import Oracle
from rtc.calibration.prefix import prefix
from rtc.compiler.core.running import unoptimised

UNIT = parse(
    """g (float[N,4] x) => (float[N,4] y) {
      a = MatMul(x, w) b = Relu(a) c = MatMul(b, v) d = Add(c, a) y = Tanh(d)
    }""",
    w=np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32),
    v=np.random.default_rng(1).standard_normal((4, 4)).astype(np.float32),
)
X = np.random.default_rng(2).standard_normal((3, 4)).astype(np.float32)


def test_only_what_a_tensor_needs_is_left() -> None:
    model = onnx.load_model_from_string(prefix(UNIT.onnx.proto, ["b"]))
    assert [node.op_type for node in model.graph.node] == ["MatMul", "Relu"]
    assert [tensor.name for tensor in model.graph.initializer] == ["w"]
    assert [output.name for output in model.graph.output] == ["b"]


def test_it_computes_the_same_tensors() -> None:
    with Oracle(prefix(UNIT.onnx.proto, ["d", "b"]), ["d", "b"]) as oracle:
        part = oracle.run(X)
    w, v = (
        onnx.numpy_helper.to_array(t)
        for t in onnx.load_model_from_string(UNIT.onnx.proto).graph.initializer
    )
    b = np.maximum(X @ w, 0)
    np.testing.assert_allclose(part["b"], b, atol=1e-6)
    np.testing.assert_allclose(part["d"], b @ v + X @ w, atol=1e-5)


def test_tensors_that_are_given_are_not_computed() -> None:
    made = prefix(UNIT.onnx.proto, ["c"], given=["b"])
    assert [n.op_type for n in onnx.load_model_from_string(made).graph.node] == ["MatMul"]
    b = np.ones((3, 4), np.float32)
    (c,) = unoptimised(made).run(["c"], {"x": X, "b": b})
    v = onnx.numpy_helper.to_array(onnx.load_model_from_string(made).graph.initializer[0])
    np.testing.assert_allclose(c, b @ v, atol=1e-6)
