"""Arithmetic of sizes that are partly known."""

import pytest
from check_pass import parse

from rtc.passes.graph.sizes import KnownValues, Size, known, over, size_of, times
from rtc.passes.support.onnx_graph import read

N, M = Size(1, ("N",)), Size(1, ("M",))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (2, 3, 6),
        (N, 3, Size(3, ("N",))),
        (M, N, Size(1, ("M", "N"))),
        (N, 0, 0),
        (N, -1, None),
        (N, None, None),
        (0, None, 0),
    ],
)
def test_products(a, b, expected):
    assert times(a, b) == times(b, a) == expected


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (7, 2, 3),
        (-7, 2, -3),  # towards zero, as ONNX has it
        (Size(6, ("N",)), 2, Size(3, ("N",))),
        (Size(6, ("N",)), 4, None),  # whole or not, it depends on N
        (Size(6, ("M", "N")), Size(2, ("N",)), Size(3, ("M",))),
        (Size(6, ("N",)), N, 6),
        (6, N, None),
        (N, 0, None),
    ],
)
def test_quotients(a, b, expected):
    assert over(a, b) == expected


@pytest.mark.parametrize(
    ("dim", "expected"),
    [
        (4, 4),
        (-1, None),
        (None, None),
        ("", None),
        ("N", N),
        ("6*M*N", Size(6, ("M", "N"))),
        ("N + 1", Size(1, ("N + 1",))),  # an exporter's own term is a size like any other
        ("2*(N//2)", Size(1, ("2*(N//2)",))),
    ],
)
def test_sizes_of_dimensions(dim, expected):
    assert size_of(dim) == expected
    if isinstance(expected, Size):
        assert size_of(str(expected)) == expected


def value(nodes, shape="N,3,4"):
    graph = read(
        parse(f"""g (float[{shape}] x) => (int64[A] y) <int64[1] zero = {{0}}, int64[1] one = {{1}},
    int64[1] two = {{2}}, int64[1] minus = {{-1}}, int64[1] far = {{-9}}, int64[1] ninth = {{9}},
    int64[0] nothing = {{}},
    int64 last = {{-1}}, int64[2] twice = {{1, 0}}> {{
        s = Shape(x)
        {nodes}
    }}""")
    )
    sizes = KnownValues()
    for node in graph.nodes:
        sizes.visit(node)
    found = sizes.of(graph.outputs[0])
    return None if found is None else found.tolist()


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("y = Identity(s)", [N, 3, 4]),
        ("y = Gather(s, twice)", [3, N]),
        ("y = Gather(s, last)", 4),
        ("y = Slice(s, one, minus)", [3]),
        ("e = Slice(s, zero, one) y = Concat<axis = 0>(e, minus, e)", [N, -1, N]),
        ("g = Gather(s, last) y = Unsqueeze(g, zero)", [4]),
        ("e = Slice(s, zero, one) y = Squeeze(e, zero)", N),
        ("y = Cast<to = 6>(s)", [N, 3, 4]),
        ("y = Cast<to = 1>(s)", None),
        ("y = Size(x)", Size(12, ("N",))),
        ("y = ReduceProd(s)", [Size(12, ("N",))]),
        ("y = Mul(s, two)", [Size(2, ("N",)), 6, 8]),
        ("y = Add(s, one)", [None, 4, 5]),
        ("y = Sub(s, s)", [0, 0, 0]),
        ("y = Max(s, two)", [None, 3, 4]),
        ("c = Equal(s, minus) y = Where(c, one, s)", [N, 3, 4]),
        ("c = Greater(s, two) y = Where(c, one, two)", [None, 1, 1]),
        ("y = Slice(s, minus, zero, zero, minus)", [4, 3]),
        ("y = Slice(s, far, minus, zero, minus)", []),
        ("y = Slice(s, far, far, zero, minus)", [N]),  # ONNX starts at a place that is there
        ("y = Slice(s, minus, far, zero, minus)", [4, 3, N]),
        ("y = Slice(s, ninth, far, zero, minus)", [4, 3, N]),
        ("y = Slice(s, ninth, one, zero, minus)", [4]),
        ("y = Slice(s, far, ninth, zero, two)", [N, 4]),
        ("y = Slice(s, ninth, ninth)", []),
        ("y = ReduceProd<keepdims = 0>(s, nothing)", Size(12, ("N",))),
        ("y = ReduceProd<keepdims = 0, noop_with_empty_axes = 1>(s, zero)", Size(12, ("N",))),
        ("y = ReduceProd<keepdims = 0, noop_with_empty_axes = 1>(s)", [N, 3, 4]),
        ("y = ReduceProd<noop_with_empty_axes = 1>(s, nothing)", [N, 3, 4]),
    ],
)
def test_values(nodes, expected):
    assert value(nodes) == expected


def test_known():
    assert known(None) is False
    graph = read(parse("g (float[2,N] x) => (int64[2] y) { y = Shape(x) }"))
    sizes = KnownValues()
    assert not known(sizes.visit(graph.nodes[0]))
