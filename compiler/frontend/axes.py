"""The axes of a model, settled on real samples before anything else is done with it.

Every axis but the first takes the samples' own size: from then on the graph is of one shape but for
its batch. Axes of 1 that an output has beside batch and classes go. The first axis is a batch only
where samples answer for themselves (see `independence`):

    symbolic, and a batch                     stays free
    fixed, and the same graph takes any batch becomes free
    fixed, to the recipe's batch              stays fixed
    symbolic, no batch, and the recipe's is 1 fixed to 1: one sample at a time
    anything else                             is refused, and the error says what was seen

So is a model that draws at random, or that learns from what it is given, as in training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rtc.compiler.core.arrays import Array
from rtc.compiler.core.data import Split, filled
from rtc.compiler.core.errors import ModelError, first_line
from rtc.compiler.core.operators import op_of
from rtc.compiler.core.protos import nodes
from rtc.compiler.core.unit import OnnxModel, Unit
from rtc.compiler.frontend.dynamic_ranges import with_fixed_ranges
from rtc.compiler.frontend.free_batch import freed, inferred, input_of, with_batch
from rtc.compiler.frontend.independence import NotAlone, apart, check_alone
from rtc.compiler.frontend.opset import lifted
from rtc.compiler.frontend.plain_operators import in_plain_operators
from rtc.compiler.frontend.source import no_classifier, signature_of, to_bytes
from rtc.compiler.process import sandbox
from rtc.passes.graph.branches import without_decided_branches

_SECONDS = 900.0
_GB = 16.0
_SIZE = 8  # samples of the batch that is looked at closely
_LARGEST = 64  # of the batches that have to give the same: what the reference runs at once
_LISTED = 4  # nodes that an error gives
_SAME = 1e-3  # of the answers' spread
_EVAL = "export it for inference: model.eval(), and without what draws at random"
_SAMPLES, _NOTES = "samples.bin", "notes.json"


@dataclass(frozen=True)
class Settled:
    """A model whose axes are settled, and what a reader must know of them."""

    unit: Unit
    notes: tuple[str, ...]

    def to_files(self) -> dict[str, bytes]:
        """Its content as named files."""
        return {**self.unit.to_files(), _NOTES: json.dumps(self.notes).encode()}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Settled:
        """The inverse of `to_files`."""
        return cls(Unit.from_files(files), tuple(json.loads(files[_NOTES])))


def settle(unit: Unit, split: Split, batch: int) -> Settled:
    """Settle the axes of an ONNX unit on samples that fit it, in a child process.

    Args:
        unit: of one input and one output.
        split: some real samples.
        batch: the recipe's.

    Raises:
        ModelError: the batch is fixed to another than the recipe's ("fixed-batch"), samples depend
            on each other ("samples-depend") or on chance ("not-deterministic"), or the model does
            not run on them.
    """
    own = unit.fixed_batch or 1
    count = max(2 * _SIZE, 2 * own, min(batch, _LARGEST))
    few = split.head(count)
    samples = np.take(few.inputs(), range(count), axis=0, mode="wrap")
    files = {**unit.to_files(), _SAMPLES: samples.tobytes()}
    args = {"shape": samples.shape, "batch": batch}
    made = sandbox.run(
        "rtc.compiler.frontend.axes:settle_files",
        files=files,
        args=args,
        deadline_s=_SECONDS,
        memory_gb=_GB,
        what="running the model on samples",
    )
    return Settled.from_files(made)


def settle_files(files: Mapping[str, bytes], args: Mapping[str, Any]) -> dict[str, bytes]:
    """`settled`, for a child process."""
    samples = np.frombuffer(files[_SAMPLES], np.float32).reshape(args["shape"])
    return settled(Unit.from_files(files), samples, args["batch"]).to_files()


def settled(unit: Unit, samples: Array, batch: int) -> Settled:
    """The unit with its axes settled; `samples` float32 (n, …), n ≥ 16 and two fixed batches."""
    unit = without_decided_branches(_with_sizes(unit, samples.shape[1:]))
    unit, flat = _flattened(unit, samples)
    own = unit.fixed_batch
    sizes = [own] if own else [_SIZE, batch]
    unit, old = lifted(unit, samples, sizes)
    unit, foreign = in_plain_operators(unit, samples)
    if own is None:
        result = _settled_symbolic(unit, samples, batch)
    else:
        result = _settled_fixed(unit, own, samples, batch)
    notes = (*result.notes, *filter(None, (old, foreign, flat)))
    return Settled(_with_classes(result.unit, samples), notes)


def _settled_symbolic(unit: Unit, samples: Array, batch: int) -> Settled:
    try:
        return Settled(unit, _checked(unit, samples, _SIZE, _others(batch)))
    except NotAlone as finding:
        if finding.kind == "random" or (
            finding.kind == "neighbours" and (batch > 1 or finding.node in _changing_nodes(unit))
        ):
            raise _refusal(unit, finding) from finding
        why = finding
    fixed = with_batch(unit, batch)
    try:
        notes = _checked(fixed, filled(samples, batch), batch)
    except NotAlone as finding:
        raise _refusal(unit, finding) from finding
    except ModelError as finding:
        raise _refusal(unit, why) from finding
    where = f" (from {why.node} on)" if why.node else ""
    note = (
        f"Axis 0 of {unit.signature.inputs[0].name} is no batch: {why.said}{where}. "
        f"{_compiled_for(batch)}; if axis 0 is time, the model needs a batch axis before it."
    )
    return Settled(fixed, (note, *notes))


def _compiled_for(batch: int) -> str:
    return "Compiled for one sample at a time" if batch == 1 else f"Compiled for batches of {batch}"


def _settled_fixed(unit: Unit, own: int, samples: Array, batch: int) -> Settled:
    why = ""
    for free in freed(unit):
        try:
            notes = _checked(free, samples, _SIZE, _others(batch))
            _check_same(unit, free, samples[:own])
            return Settled(free, notes)
        except (NotAlone, ModelError) as finding:
            why = why or (finding.said if isinstance(finding, NotAlone) else str(finding))
    if own != batch:
        raise ModelError(
            f"the model's batch is fixed to {own}, and freed it is wrong: {why}",
            where=unit.signature.inputs[0].name,
            seen=f"batch: {batch} in the recipe",
            expected=f"batch: {own}",
            fix=f"set batch: {own} in the recipe, or export the model with a dynamic batch axis",
            id="fixed-batch",
        )
    try:
        notes = _checked(unit, samples, own)
    except NotAlone as finding:
        raise _refusal(unit, finding) from finding
    lost = "there are engines for one sample at a time alone"
    if own > 1:
        lost = "no latency at batch 1, and fewer samples are filled up to a batch"
    note = f"The model's batch is fixed to {own}: {lost}. Freed it is wrong ({why}); export it with"
    return Settled(unit, (f"{note} a dynamic batch axis for others.", *notes))


def _others(batch: int) -> tuple[int, ...]:
    """Batches that have to give the same as the one that is looked at."""
    return tuple(dict.fromkeys((1, min(batch, _LARGEST))))


def _checked(unit: Unit, samples: Array, size: int, others: Sequence[int] = ()) -> tuple[str, ...]:
    """Notes on a unit whose samples answer for themselves, see `check_alone`.

    A range that is taken of the whole batch when it is quantised moves each answer a little; that
    is how such a model computes, and no sign of another axis.

    Raises:
        NotAlone: they do not.
    """
    try:
        check_alone(unit, samples, size, others)
    except NotAlone as finding:
        if finding.kind not in ("neighbours", "place", "size"):
            raise
        still = with_fixed_ranges(unit, samples[:size])
        if still is None:
            raise
        check_alone(still, samples, size, others)
        said = finding.said
    else:
        return ()
    return (f"Activations are quantised to the range of the whole batch: {said}.",)


def _check_same(unit: Unit, free: Unit, batch: Array) -> None:
    from rtc.calibration.oracle import Oracle

    with Oracle(unit.onnx.proto) as one, Oracle(free.onnx.proto) as other:
        before, after = (next(iter(each.run(batch).values())) for each in (one, other))
    if before.shape != after.shape or apart(before, after) > _SAME:
        raise NotAlone("size", "it computes something else")


def _refusal(unit: Unit, finding: NotAlone) -> ModelError:
    name, kind = unit.signature.inputs[0].name, finding.kind
    if kind == "random":
        return ModelError(
            "the model answers the same samples otherwise each time it runs",
            where=", ".join(_changing_nodes(unit)[:_LISTED]) or name,
            seen=finding.said,
            fix=_EVAL,
            id="not-deterministic",
        )
    if kind == "fails":
        return ModelError("the model does not run on the samples", where=name, seen=finding.said)
    return ModelError(
        "the samples of a batch depend on each other: axis 0 is no batch",
        where=finding.node or name,
        seen=finding.said,
        expected="the same answer to a sample whatever stands beside it",
        fix=_EVAL
        if finding.node in _changing_nodes(unit)
        else "export the model with a batch axis of its own; batch: 1 in the recipe compiles it for"
        " one sample at a time",
        id="samples-depend",
    )


def _changing_nodes(unit: Unit) -> list[str]:
    """Nodes that draw at random, or that learn from what they are given."""
    import onnx

    graph = onnx.load_model_from_string(unit.onnx.proto).graph
    kinds = ("Random", "Multinomial", "Bernoulli", "Dropout")
    return [
        f"{node.name or node.output[0]} ({node.op_type})"
        for node in graph.node
        if op_of(node).startswith(kinds)
        or any(a.name == "training_mode" and a.i for a in node.attribute)
    ]


def _with_sizes(unit: Unit, sizes: tuple[int, ...]) -> Unit:
    """The unit for samples of these sizes; what it stated for others is inferred again."""
    import onnx

    if unit.signature.inputs[0].shape[1:] == sizes:
        return unit
    model = onnx.load_model_from_string(unit.onnx.proto)
    dims = input_of(model, unit).type.tensor_type.shape.dim
    for axis, size in enumerate(sizes, start=1):
        dims[axis].dim_value = size
    return inferred(model)


def _flattened(unit: Unit, samples: Array) -> tuple[Unit, str]:
    """The unit with an output (N, classes), and a note where it had axes of 1 besides.

    Raises:
        ModelError: an axis besides is not 1, or the model does not run on the samples.
    """
    import onnx

    from rtc.calibration.oracle import Oracle

    output = unit.signature.outputs[0]
    if len(output.shape) == 2:
        return unit, ""
    with Oracle(unit.onnx.proto) as oracle:
        try:
            shape = oracle.run(samples[: unit.fixed_batch or 2])[output.name].shape
        except Exception as cause:  # the runtime's errors have no common public class
            raise _refusal(unit, NotAlone("fails", first_line(cause))) from cause
    came = ", ".join(map(str, (output.shape[0], *shape[1:])))
    classes = [size for size in shape[1:] if size != 1] or [1]
    if len(classes) > 1:
        raise no_classifier(output.name, f"{output.dtype} ({came})")
    model = onnx.load_model_from_string(unit.onnx.proto)
    name, inner = output.name, f"{output.name}/with_axes"
    for node in nodes(model):
        for names in (node.input, node.output):
            names[:] = [inner if each == name else each for each in names]
    flatten = onnx.helper.make_node("Flatten", [inner], [name], name=f"{name}/flatten", axis=1)
    model.graph.node.append(flatten)
    dims = model.graph.output[0].type.tensor_type.shape.dim
    del dims[2:]
    dims[1].dim_value = classes[0]
    gives = f"({output.shape[0]}, {classes[0]})"
    return inferred(model), f"The output {name} came as ({came}); engines give {gives}."


def _with_classes(unit: Unit, samples: Array) -> Unit:
    """The unit with an output that says how many classes it gives, as the samples show."""
    import onnx

    from rtc.calibration.oracle import Oracle

    first, classes = unit.signature.inputs[0].shape[0], unit.signature.outputs[0].shape[-1]
    if unit.signature.outputs[0].shape == (first, classes) and isinstance(classes, int):
        return unit
    with Oracle(unit.onnx.proto) as oracle:
        rows = next(iter(oracle.run(samples[: unit.fixed_batch or 1]).values()))
    model = onnx.load_model_from_string(unit.onnx.proto)
    dims = model.graph.output[0].type.tensor_type.shape.dim
    dims[0].CopyFrom(input_of(model, unit).type.tensor_type.shape.dim[0])
    dims[1].dim_value = rows.shape[1]
    return Unit(OnnxModel(to_bytes(model)), signature_of(model))
