from __future__ import annotations

import numpy as np
from one_operator import answers, model_of, operators

from rtc.compiler.core.parts import Parts, Unwritten, write_parts

TWICE = """
g (float[N,3] x) => (float[N,3] y) {
  [first] a = com.microsoft.Gelu(x)
  [second] y = com.microsoft.QuickGelu<alpha=2.0>(a)
}
"""
NESTED = """
g (float[N,3] x, bool c) => (float[N,3] y) {
  y = If(c) <
    then_branch = t () => (float[N,3] u) { [inner] u = com.microsoft.Gelu(x) },
    else_branch = e () => (float[N,3] v) { v = Identity(x) }
  >
}
"""


def _doubled(parts: Parts) -> None:
    two = parts.constant("two", 2.0)
    scaled = parts.add("Mul", parts.given(0), two, layer=True)
    parts.add("Relu", scaled, output=0)


def _refused(parts: Parts) -> None:
    parts.add("Identity", parts.given(0))
    raise Unwritten(f"alpha is {parts.option('alpha', 0.0)}")


def test_the_part_that_does_the_work_keeps_the_name() -> None:
    model = model_of(TWICE, {})
    done = write_parts(model, {"com.microsoft.Gelu": _doubled})
    assert (done.operators, done.left) == ({"com.microsoft.Gelu"}, ())
    assert operators(model) == ["Mul", "Relu", "com.microsoft.QuickGelu"]
    assert [node.name for node in model.graph.node] == ["first", "first/1_relu", "second"]
    x = np.array([[-1.0, 0.5, 2.0]], np.float32)
    kept = 2 * np.maximum(x, 0)
    np.testing.assert_allclose(
        answers(model, {"x": x})[0], kept / (1 + np.exp(-2 * kept)), rtol=1e-6
    )


def test_a_node_without_parts_stays_and_says_why() -> None:
    model = model_of(TWICE, {})
    before = model.SerializeToString()
    done = write_parts(model, {"com.microsoft.QuickGelu": _refused})
    assert done.operators == set()
    assert done.left == ("second (QuickGelu): alpha is 2.0",)
    assert model.SerializeToString() == before


def test_branches_are_written_too() -> None:
    model = model_of(NESTED, {})
    write_parts(model, {"com.microsoft.Gelu": _doubled})
    x = np.array([[-1.0, 0.5, 2.0]], np.float32)
    (there,) = answers(model, {"x": x, "c": np.array(True)})
    np.testing.assert_array_equal(there, 2 * np.maximum(x, 0))
