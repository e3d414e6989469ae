"""What every pass owes, in one place: each pass's test goes through `check_pass`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rtc.compiler.core.data import Preprocess, Split
from rtc.compiler.core.hashing import digest
from rtc.compiler.core.passes import Pass, PassContext, PassResult
from rtc.compiler.core.unit import OnnxModel, Signature, TensorSpec, Unit
from rtc.compiler.execution.certified_pass import certify
from rtc.compiler.execution.pass_contract import check_requirements, check_structure


def check_pass(
    step: Pass,
    unit: Unit,
    ctx: PassContext | None = None,
    *,
    idempotent: bool = True,
    samples: int = 32,
) -> PassResult:
    """Apply a pass and hold it to its contract; its result, for what is particular to the test.

    - It takes and gives the levels that it declares; the signature stays.
    - The same input gives the same bytes twice, and `modified` says whether they changed.
    - An ONNX result passes onnx's checker, shapes inferred; its own inputs and outputs stay.
    - A second run over the result changes nothing (`idempotent`).
    - Numbers agree with the oracle's within the bounds that the pass declares.
    """
    ctx = ctx or context_for(unit, samples)
    assert unit.level is step.takes
    check_requirements(step, ctx)
    result = step.apply(unit, ctx)
    check_structure(step, unit, result)
    assert step.apply(unit, ctx).unit.digest == result.unit.digest, "two runs differ"
    if idempotent:
        again = step.apply(result.unit, ctx)
        assert not again.modified, f"a second run changes it again: {again.summary}"
        assert again.unit is result.unit
    certify(step, unit, result, ctx)
    return result


@dataclass(frozen=True)
class Samples:
    """Three splits of the same samples, for tests that need no real ones."""

    split: Split

    @property
    def digest(self) -> str:
        return digest(self.split.raw.tobytes())

    @property
    def train(self) -> Split:
        return self.split

    @property
    def calibration(self) -> Split:
        return self.split

    @property
    def test(self) -> Split:
        return self.split


def random_samples(unit: Unit, count: int = 32, seed: int = 0) -> Samples:
    """Standard normal samples of the unit's input shape, without labels."""
    shape = [size for size in unit.signature.inputs[0].shape[1:] if isinstance(size, int)]
    values = np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)
    return Samples(Split("random", values, None, Preprocess()))


def context_for(unit: Unit, count: int = 32) -> PassContext:
    return PassContext(random_samples(unit, count))


def parse(text: str, opsets: str = '"" : 20', **initialisers: np.ndarray) -> Unit:
    """A unit from ONNX's text format; large weights are given as arrays by name."""
    import onnx

    model = onnx.parser.parse_model(f"<ir_version: 10, opset_import: [{opsets}]>\n{text}")
    for name, values in initialisers.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return unit_of(model.SerializeToString())


def unit_of(proto: bytes) -> Unit:
    """A unit with the signature that the model states."""
    import onnx

    model = onnx.load_model_from_string(proto)

    def specs(values: list[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(
                value.name,
                str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)),
                tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim),
            )
            for value in values
        )

    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [each for each in graph.input if each.name not in constants]
    return Unit(OnnxModel(proto), Signature(specs(inputs), specs(list(graph.output))))


def equations(unit: Unit) -> list[str]:
    """The nodes of an ONNX unit, one a line: "y = Relu(x)"."""
    import onnx

    graph = onnx.load_model_from_string(unit.onnx.proto).graph
    return [f"{', '.join(n.output)} = {n.op_type}({', '.join(n.input)})" for n in graph.node]


def constant(unit: Unit, name: str) -> np.ndarray:
    """The values of an initialiser."""
    import onnx

    graph = onnx.load_model_from_string(unit.onnx.proto).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    return onnx.numpy_helper.to_array(tensors[name])
