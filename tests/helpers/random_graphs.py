"""Random networks for property tests: seeded, small, and with sizes that agree where they can.

A graph is a walk: each step reads the last tensor (or one before it as well) and makes the next.
Batches stay in front and dynamic; all else is drawn from few sizes, so that tokens, channels and
pixels are often as many. Layers of every rank and side, and what lies between them in real exports:
residuals, pools, activations, batch normalisation, shuffles, and shapes that the graph computes.
Opsets are drawn as well, and the form of every constant: an initialiser, or a Constant node with
whichever attribute takes it. Branches that are decided beforehand stand in `random_model` alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from check_pass import unit_of
from random_integers import (
    EXACT,
    conv_integer,
    matmul_integer,
    qlinear_matmul,
    quantise_and_back,
)

from rtc.calibration.oracle import evaluate
from rtc.compiler.core.unit import Unit
from rtc.passes.graph.branches import without_decided_branches
from rtc.passes.support.onnx_graph import named

CLASSES = 4
OPSETS = range(11, 21)
_MOST = 192  # elements of a sample
_SIZES = (2, 3, 4, 6)


def random_model(seed: int, steps: int = 9) -> Unit:
    """A classifier (N, …) → (N, CLASSES) of about `steps` steps; the same for the same seed.

    As exporters write it: with branches that sizes decide, and with products of integers.
    """
    walk = _Walk(np.random.default_rng(seed), (LAYERS, SMOOTH, OTHERS, EXPORTED))
    for _ in range(steps):
        walk.step()
    return walk.finish()


def random_graph(seed: int, steps: int = 9, opsets: range = OPSETS) -> Unit:
    """The same in floats, as passes read it: without branches."""
    kinds = (LAYERS, SMOOTH, OTHERS, (_decided,))
    walk = _Walk(np.random.default_rng(seed), kinds, opsets=opsets)
    for _ in range(steps):
        walk.step()
    return without_decided_branches(named(walk.finish()))


def in_double(unit: Unit, *batches: np.ndarray) -> list[np.ndarray]:
    """The first output of a float32 model for each batch in float64, by onnx's own evaluator.

    Integers are not rounded (`random_integers`).
    """
    from onnx.reference import ReferenceEvaluator

    model = onnx.load_model_from_string(unit.onnx.proto)
    _to_double(model.graph, model)
    evaluator = ReferenceEvaluator(model, new_ops=[*_mended_ops(), *EXACT])
    name = model.graph.input[0].name
    return [np.asarray(evaluator.run(None, {name: x.astype(np.float64)})[0]) for x in batches]


def _to_double(graph: onnx.GraphProto, model: onnx.ModelProto) -> None:
    """Change the types of a graph, and of those within it."""
    _constants_as_tensors(graph, model)
    tensors = [a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute]
    for tensor in (*graph.initializer, *tensors):
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == onnx.TensorProto.FLOAT:
                attribute.i = onnx.TensorProto.DOUBLE
            if attribute.type == onnx.AttributeProto.GRAPH:
                _to_double(attribute.g, model)
    del graph.value_info[:]


def _constants_as_tensors(graph: onnx.GraphProto, model: onnx.ModelProto) -> None:
    """Give Constant nodes the values that ONNX Runtime has for them, as an attribute `value`."""
    nodes = [node for node in graph.node if node.op_type == "Constant"]
    if not nodes:
        return
    make = onnx.helper.make_node
    reads = [make("Identity", node.output, [f"{node.output[0]}/read"]) for node in nodes]
    outputs = [onnx.ValueInfoProto(name=node.output[0]) for node in reads]
    alone = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    alone.graph.CopyFrom(onnx.helper.make_graph([*nodes, *reads], "constants", [], outputs))
    for node, values in zip(nodes, evaluate(alone.SerializeToString()), strict=True):
        del node.attribute[:]
        tensor = onnx.numpy_helper.from_array(values)
        node.attribute.append(onnx.helper.make_attribute("value", tensor))


def _mended_ops() -> list[type]:
    """What onnx's evaluator gets wrong.

    Groups, a maximum over channels too, exp of 1000; before opset 14 it normalises by the batch.
    """
    from onnx.reference.op_run import OpRun
    from onnx.reference.ops.op_conv_transpose import ConvTranspose as Ungrouped

    class ConvTranspose(Ungrouped):
        def _run(self, x, w, b=None, group=1, **options):
            biases = [None] * group if b is None else np.split(b, group)
            parts = zip(np.split(x, group, axis=1), np.split(w, group), biases, strict=True)
            made = [super(ConvTranspose, self)._run(*part, group=1, **options) for part in parts]
            return (np.concatenate([each for (each,) in made], axis=1),)

    class BatchNormalization(OpRun):
        def _run(self, x, *parts, epsilon=1e-5, **_):
            along = [each.reshape(-1, *[1] * (x.ndim - 2)) for each in parts]
            scale, shift, mean, variance = along
            return (scale * (x - mean) / np.sqrt(variance + epsilon) + shift,)

    class GlobalMaxPool(OpRun):
        def _run(self, x):
            return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)

    class Sigmoid(OpRun):
        def _run(self, x):
            return (0.5 + 0.5 * np.tanh(0.5 * x),)

    return [BatchNormalization, ConvTranspose, GlobalMaxPool, Sigmoid]


@dataclass(frozen=True)
class _Tensor:
    """A tensor's name, and its shape without the batch."""

    name: str
    shape: tuple[int, ...]


Step = Callable[["_Walk", _Tensor], "_Tensor | None"]
"""What makes the next tensor; None where it has no place here."""


@dataclass
class _Walk:
    random: np.random.Generator
    kinds: tuple[tuple[Step, ...], ...] = ()
    prefix: str = ""
    opsets: range = OPSETS
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    seen: list[_Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.opset = int(self.random.choice(self.opsets))
        self.usual = int(self.random.choice(_SIZES[:3]))
        rank = int(self.random.choice([1, 2, 2, 3, 3, 3, 4]))
        self.seen.append(_Tensor("x", tuple(self.size() for _ in range(rank))))

    def step(self) -> None:
        """One more tensor: a layer, what scaling passes through, or something else."""
        while True:
            kind = self.kinds[int(self.random.choice(4, p=[0.36, 0.32, 0.22, 0.1]))]
            made = self.pick(kind)(self, self.seen[-1])
            if made is not None:
                self.seen.append(made)
                return

    def finish(self) -> Unit:
        flat = _flatten(self, self.seen[-1])
        last = self.node("Gemm", flat.name, self.weights(flat.shape[0], CLASSES))
        self.nodes[-1].output[0] = "y"
        make = onnx.helper.make_tensor_value_info
        float32 = onnx.TensorProto.FLOAT
        graph = onnx.helper.make_graph(
            self.nodes,
            "random",
            [make("x", float32, ["N", *self.seen[0].shape])],
            [make("y", float32, ["N", CLASSES])],
            self.constants,
        )
        assert last
        opsets = [onnx.helper.make_opsetid("", self.opset)]
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        onnx.checker.check_model(model, full_check=True)
        return unit_of(model.SerializeToString(deterministic=True))

    def pick(self, among: Any) -> Any:
        return among[int(self.random.integers(len(among)))]

    def size(self) -> int:
        return self.usual if self.random.random() < 0.7 else int(self.random.choice(_SIZES))

    def chance(self, share: float = 0.5) -> bool:
        return bool(self.random.random() < share)

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """A node of its own name; its output's name."""
        name = f"{self.prefix}{op.lower()}_{len(self.nodes)}"
        made = onnx.helper.make_node(op, list(inputs), [f"{name}_out"], name, **attributes)
        self.nodes.append(made)
        return str(made.output[0])

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        values = np.asarray(values, dtype)
        if self.chance(0.4):
            form = self.pick(_forms(values, self.opset))
            return self.node("Constant", **form)
        name = f"{self.prefix}constant_{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(values, name))
        return name

    def over(self, op: str, x: str, axes: list[int], since: int, **attributes: Any) -> str:
        """A node that has its axes as an input since some opset, and as an attribute before."""
        if self.opset < since:
            return self.node(op, x, axes=axes, **attributes)
        return self.node(op, x, self.constant(axes, np.int64), **attributes)

    def weights(self, *shape: int, fan: int = 0, axis: int = -1) -> str:
        """Weights whose output channels (`axis`) span two decades; `fan` inputs each."""
        values = self.random.standard_normal(shape) / math.sqrt(fan or math.prod(shape[:-1]))
        spread = 10 ** self.random.uniform(-1, 1, shape[axis])
        along = [-1 if i == axis % len(shape) else 1 for i in range(len(shape))]
        return self.constant(values * spread.reshape(along))

    def vector(self, *shape: int, low: float = -1.0, high: float = 1.0) -> str:
        return self.constant(self.random.uniform(low, high, shape))


def _forms(values: np.ndarray, opset: int) -> list[dict[str, Any]]:
    """The attributes that a Constant node may have a tensor in."""
    forms: list[dict[str, Any]] = [{"value": onnx.numpy_helper.from_array(values)}]
    kind = {"float32": "float", "int64": "int"}.get(str(values.dtype))
    if kind and values.ndim < 2 and values.size and opset >= 12:
        plural = "s" * values.ndim
        forms.append({f"value_{kind}{plural}": values.tolist()})
    if kind == "float" and values.ndim and values.any():
        forms.append({"sparse_value": _sparse(values)})
    return forms


def _sparse(values: np.ndarray) -> onnx.SparseTensorProto:
    places = np.flatnonzero(values)
    stored = onnx.numpy_helper.from_array(values.reshape(-1)[places], "values")
    indices = onnx.numpy_helper.from_array(places, "places")
    return onnx.helper.make_sparse_tensor(stored, indices, values.shape)


def _conv(walk: _Walk, x: _Tensor) -> _Tensor | None:
    if len(x.shape) < 2:
        return None
    channels, *space = x.shape
    groups = walk.pick([g for g in range(1, channels + 1) if channels % g == 0])
    out = groups * int(walk.random.integers(1, 3)) if walk.chance() else channels
    taps = 1 if min(space) < 3 or walk.chance() else 3
    shape = (out, channels // groups, *[taps] * len(space))
    inputs = [x.name, walk.weights(*shape, fan=math.prod(shape[1:]), axis=0)]
    inputs += [walk.vector(out)] if walk.chance() else []
    padding = (taps // 2) * int(walk.chance(0.7))
    sizes = [size + 2 * padding - taps + 1 for size in space]
    name = walk.node("Conv", *inputs, group=groups, pads=[padding] * 2 * len(space))
    return _small(name, (out, *sizes))


def _conv_transpose(walk: _Walk, x: _Tensor) -> _Tensor | None:
    if len(x.shape) != 3:
        return None
    channels, *space = x.shape
    groups = walk.pick([g for g in range(1, channels + 1) if channels % g == 0])
    each = channels // groups
    weight = walk.weights(channels, each, 2, 2, fan=4 * channels, axis=1)
    inputs = [x.name, weight, *([walk.vector(channels)] if walk.chance() else [])]
    name = walk.node("ConvTranspose", *inputs, group=groups)
    return _small(name, (channels, *[size + 1 for size in space]))


def _gemm(walk: _Walk, x: _Tensor) -> _Tensor | None:
    if len(x.shape) != 1:
        return None
    out, turned = walk.size(), int(walk.chance())
    shape = (out, *x.shape) if turned else (*x.shape, out)
    inputs = [x.name, walk.weights(*shape, fan=x.shape[0], axis=0 if turned else 1)]
    bias = walk.pick([None, (out,), (1, out), (1,), ()])
    inputs += [] if bias is None else [walk.vector(*bias)]
    return _Tensor(walk.node("Gemm", *inputs, transB=turned), (out,))


def _matmul(walk: _Walk, x: _Tensor) -> _Tensor | None:
    out = walk.size()
    name = walk.node("MatMul", x.name, walk.weights(x.shape[-1], out))
    return _small(name, (*x.shape[:-1], out))


def _matmul_left(walk: _Walk, x: _Tensor) -> _Tensor | None:
    """The weights on the left: channels are rows."""
    if len(x.shape) < 2:
        return None
    out = walk.size()
    name = walk.node("MatMul", walk.weights(out, x.shape[-2], fan=x.shape[-2], axis=0), x.name)
    return _small(name, (*x.shape[:-2], out, x.shape[-1]))


def _matmul_batched(walk: _Walk, x: _Tensor) -> _Tensor | None:
    """Weights of their own for each row of a batch."""
    if len(x.shape) < 2:
        return None
    out, many = walk.size(), x.shape[:-2] if walk.chance() else (1,)
    name = walk.node("MatMul", x.name, walk.weights(*many, x.shape[-1], out, fan=x.shape[-1]))
    return _small(name, (*x.shape[:-1], out))


def _same(op: str, **attributes: Any) -> Step:
    """A step that keeps the shape."""
    return lambda walk, x: _Tensor(walk.node(op, x.name, **attributes), x.shape)


def _prelu(walk: _Walk, x: _Tensor) -> _Tensor:
    axis = int(walk.random.integers(len(x.shape)))
    slope = walk.vector(*[size if i == axis else 1 for i, size in enumerate(x.shape)])
    return _Tensor(walk.node("PRelu", x.name, slope), x.shape)


def _clip(walk: _Walk, x: _Tensor) -> _Tensor:
    limits = [walk.constant(0.0), walk.constant(6.0)][: 1 + int(walk.chance())]
    return _Tensor(walk.node("Clip", x.name, *limits), x.shape)


def _pool(walk: _Walk, x: _Tensor) -> _Tensor | None:
    if len(x.shape) < 2 or min(x.shape[1:]) < 2:
        return None
    op = walk.pick(["MaxPool", "AveragePool"])
    space = len(x.shape) - 1
    name = walk.node(op, x.name, kernel_shape=[2] * space)
    return _Tensor(name, (x.shape[0], *[size - 1 for size in x.shape[1:]]))


def _global_pool(walk: _Walk, x: _Tensor) -> _Tensor | None:
    if len(x.shape) < 2:
        return None
    name = walk.node(walk.pick(["GlobalAveragePool", "GlobalMaxPool"]), x.name)
    return _Tensor(name, (x.shape[0], *[1] * (len(x.shape) - 1)))


def _transpose(walk: _Walk, x: _Tensor) -> _Tensor | None:
    if len(x.shape) < 2:
        return None
    order = [int(i) for i in walk.random.permutation(len(x.shape))]
    name = walk.node("Transpose", x.name, perm=[0, *(i + 1 for i in order)])
    return _Tensor(name, tuple(x.shape[i] for i in order))


def _flatten(walk: _Walk, x: _Tensor) -> _Tensor:
    return _Tensor(walk.node("Flatten", x.name), (math.prod(x.shape),))


def _view(walk: _Walk, x: _Tensor) -> _Tensor:
    """What torch's `view` becomes: sizes taken from the tensor's own shape, multiplied, joined."""
    shape = walk.node("Shape", x.name)
    batch = walk.node("Gather", shape, walk.constant([0], np.int64))
    start = int(walk.random.integers(len(x.shape)))
    kept = [walk.constant(list(x.shape[:start]), np.int64)] if start else []
    rest = walk.node("Slice", shape, *(walk.constant([i], np.int64) for i in (start + 1, 99)))
    joined = walk.node("ReduceProd", rest, keepdims=1)
    wanted = walk.node("Concat", batch, *kept, joined, axis=0)
    sizes = (*x.shape[:start], math.prod(x.shape[start:]))
    return _Tensor(walk.node("Reshape", x.name, wanted), sizes)


def _split_axis(walk: _Walk, x: _Tensor) -> _Tensor | None:
    """An axis of a composite size becomes two."""
    found = [(i, f) for i, size in enumerate(x.shape) for f in (2, 3) if size % f == 0 and size > f]
    if not found or len(x.shape) > 3:
        return None
    axis, factor = walk.pick(found)
    sizes = (*x.shape[:axis], factor, x.shape[axis] // factor, *x.shape[axis + 1 :])
    wanted = [-1 if walk.chance() else 0, *sizes]
    return _Tensor(walk.node("Reshape", x.name, walk.constant(wanted, np.int64)), sizes)


def _unsqueeze(walk: _Walk, x: _Tensor) -> _Tensor | None:
    if len(x.shape) > 3:
        return None
    axis = int(walk.random.integers(len(x.shape) + 1))
    name = walk.over("Unsqueeze", x.name, [axis + 1], 13)
    return _Tensor(name, (*x.shape[:axis], 1, *x.shape[axis:]))


def _squeeze(walk: _Walk, x: _Tensor) -> _Tensor | None:
    ones = [i for i, size in enumerate(x.shape) if size == 1]
    if not ones or len(x.shape) < 2:
        return None
    name = walk.over("Squeeze", x.name, [ones[0] + 1], 13)
    return _Tensor(name, tuple(size for i, size in enumerate(x.shape) if i != ones[0]))


def _mean(walk: _Walk, x: _Tensor) -> _Tensor | None:
    if len(x.shape) < 2:
        return None
    axis = int(walk.random.integers(len(x.shape)))
    op = walk.pick(["ReduceMean", "ReduceMax"])
    name = walk.over(op, x.name, [axis + 1], 18, keepdims=0)
    return _Tensor(name, tuple(size for i, size in enumerate(x.shape) if i != axis))


def _pad(walk: _Walk, x: _Tensor) -> _Tensor | None:
    if len(x.shape) < 3:
        return None
    pads = [0] * (2 * len(x.shape) + 2)
    pads[-1] = int(walk.chance(0.7))
    name = walk.node("Pad", x.name, walk.constant(pads, np.int64))
    return _small(name, (*x.shape[:-1], x.shape[-1] + pads[-1]))


def _batchnorm(walk: _Walk, x: _Tensor) -> _Tensor:
    many = x.shape[0]
    parts = [walk.vector(many) for _ in range(3)] + [walk.vector(many, low=0.3, high=2.0)]
    return _Tensor(walk.node("BatchNormalization", x.name, *parts), x.shape)


def _with_constant(walk: _Walk, x: _Tensor) -> _Tensor:
    """A sum or a product with a constant, one for each place of some axes."""
    shape = [size if walk.chance() else 1 for size in x.shape]
    pair = [x.name, walk.vector(*shape)]
    return _Tensor(walk.node(walk.pick(["Add", "Mul"]), *pair[:: walk.pick([1, -1])]), x.shape)


def _computed_constant(walk: _Walk, x: _Tensor) -> _Tensor:
    """A constant that the graph computes."""
    made = walk.node("Neg", walk.vector(x.shape[-1]))
    return _Tensor(walk.node("Add", x.name, made), x.shape)


def _residual(walk: _Walk, x: _Tensor) -> _Tensor | None:
    others = [each for each in walk.seen[:-1] if each.shape == x.shape]
    return _Tensor(walk.node("Add", x.name, walk.pick(others).name), x.shape) if others else None


def _concat(walk: _Walk, x: _Tensor) -> _Tensor | None:
    axis = int(walk.random.integers(len(x.shape)))

    def joins(each: _Tensor) -> bool:
        """Whether it has x's rank, and x's size on every other axis."""
        alike = [own == of_x for own, of_x in zip(each.shape, x.shape, strict=False)]
        return len(each.shape) == len(x.shape) and all(alike[:axis] + alike[axis + 1 :])

    others = [each for each in walk.seen if joins(each)]
    other = walk.pick(others)
    sizes = [*x.shape]
    sizes[axis] += other.shape[axis] if len(other.shape) == len(x.shape) else math.inf
    if sizes[axis] == math.inf:
        return None
    return _small(walk.node("Concat", x.name, other.name, axis=axis + 1), tuple(sizes))


def _attention(walk: _Walk, x: _Tensor) -> _Tensor | None:
    """A product of two tensors that are both computed, through a Softmax."""
    if len(x.shape) < 2:
        return None
    order = [*range(len(x.shape) - 1), len(x.shape), len(x.shape) - 1]
    turned = walk.node("Transpose", x.name, perm=order)
    scores = walk.node("Softmax", walk.node("MatMul", x.name, turned), axis=-1)
    return _Tensor(walk.node("MatMul", scores, x.name), x.shape)


def _layernorm(walk: _Walk, x: _Tensor) -> _Tensor | None:
    """As exporters write it out before opset 17; of one value or two it is all but a sign."""
    if x.shape[-1] < 3:
        return None
    centred = walk.node("Sub", x.name, walk.over("ReduceMean", x.name, [-1], 18))
    square = walk.node("Pow", centred, walk.constant(2.0))
    variance = walk.node("Add", walk.over("ReduceMean", square, [-1], 18), walk.constant(1e-5))
    return _Tensor(walk.node("Div", centred, walk.node("Sqrt", variance)), x.shape)


def _hard_swish(walk: _Walk, x: _Tensor) -> _Tensor | None:
    return _Tensor(walk.node("HardSwish", x.name), x.shape) if walk.opset >= 14 else None


def _decided(walk: _Walk, x: _Tensor) -> _Tensor:
    """An If that a constant or a known size decides; names are those of every other's branches."""
    yes = walk.chance()
    if walk.chance(0.3):
        condition = walk.constant(yes, np.bool_)
    else:
        axis = int(walk.random.integers(len(x.shape)))
        place = walk.constant(axis + 1, np.int64)
        size = walk.node("Gather", walk.node("Shape", x.name), place)
        other = x.shape[axis] + (0 if yes else 1)
        condition = walk.node("Equal", size, walk.constant(other, np.int64))
    taken = _branch(walk, x, walk.pick(["Mul", "Add"]))
    other = _branch(walk, x, "Flatten")  # of another rank
    sides = (taken, other) if yes else (other, taken)
    name = walk.node("If", condition, then_branch=sides[0], else_branch=sides[1])
    return _Tensor(name, x.shape)


def _branch(walk: _Walk, x: _Tensor, op: str) -> onnx.GraphProto:
    make = onnx.helper.make_node
    inner = _Walk(walk.random, prefix="inner_")
    inner.opset = walk.opset
    inputs = [x.name] if op == "Flatten" else [x.name, inner.vector(x.shape[-1])]
    nodes = [make(op, inputs, ["inner"], "inner"), make("Identity", ["inner"], ["out"], "last")]
    output = onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)
    return onnx.helper.make_graph([*inner.nodes, *nodes], "branch", [], [output], inner.constants)


def _dead(walk: _Walk, x: _Tensor) -> _Tensor:
    """Something that nothing reads, beside an Identity."""
    walk.node("Neg", x.name)
    return _Tensor(walk.node("Identity", x.name), x.shape)


def _small(name: str, shape: tuple[int, ...]) -> _Tensor | None:
    """The tensor, where its samples are small; its node is dead code otherwise."""
    return _Tensor(name, shape) if math.prod(shape) <= _MOST else None


LAYERS: tuple[Step, ...] = (
    _conv,
    _conv,
    _conv_transpose,
    _gemm,
    _matmul,
    _matmul_left,
    _matmul_batched,
)
SMOOTH: tuple[Step, ...] = (
    _same("Relu"),
    _same("Relu"),
    _same("LeakyRelu"),
    _prelu,
    _clip,
    _pool,
    _global_pool,
    _transpose,
    _transpose,
    _flatten,
    _view,
    _split_axis,
    _unsqueeze,
    _squeeze,
    _mean,
    _pad,
    _same("Identity"),
    _same("Dropout"),
    _same("Cast", to=onnx.TensorProto.FLOAT),
)
OTHERS: tuple[Step, ...] = (
    _batchnorm,
    _batchnorm,
    _with_constant,
    _computed_constant,
    _residual,
    _residual,
    _concat,
    _attention,
    _layernorm,
    _same("Sigmoid"),
    _same("Tanh"),
    _hard_swish,
    _dead,
)
EXPORTED: tuple[Step, ...] = (
    _decided,
    _decided,
    quantise_and_back,
    quantise_and_back,
    matmul_integer,
    conv_integer,
    qlinear_matmul,
)
