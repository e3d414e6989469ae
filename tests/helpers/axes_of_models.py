"""A model that centres each answer on the mean of its batch."""

from __future__ import annotations

CENTRED = """
g (float[T,6] x) => (float[T,3] y) {
  a = MatMul(x, w)
  [mean] m = ReduceMean<axes=[0], keepdims=1>(a)
  [scaled] s = Mul(m, small)
  y = Add(a, s)
}
"""
