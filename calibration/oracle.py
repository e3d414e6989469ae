"""The reference: ONNX Runtime with every graph optimisation disabled.

Optimised ORT is never the reference: its fusions have been seen to change results (`Pad` fused into
`MaxPool`). Half types are emulated (rtc.calibration.rounding), because ORT computes in float32
around FP16 operators on x86 and has no BF16 ones. Products of integers are written out
(rtc.compiler.core.exact_products), because ORT's saturate on some CPUs. See "Oracles lie" in the
troubleshooting notes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rtc.calibration.rounding import emulate_half
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.closing import Closing
from rtc.compiler.core.data import Split
from rtc.compiler.core.exact_products import write_out
from rtc.compiler.core.outputs import OutputKind, output_kind
from rtc.compiler.core.running import unoptimised
from rtc.compiler.core.tensors import types_of

if TYPE_CHECKING:
    import onnx
    import onnxruntime as ort

_TOLD_BY = 32  # samples that tell what a model's output is


class Oracle(Closing):
    """An unoptimised CPU session over one model; a context manager.

    Args:
        proto: a serialised `onnx.ModelProto` with one input.
        outputs: the tensors to return; the model's own outputs when not given. They must be graph
            outputs already.
        threads: CPU threads; 0 for the runtime's own choice.

    Attributes:
        batch: the batch that the model's input is fixed to, or None.
        sample: the shape of one sample, None where a size is free.

    Raises:
        ModelError: ONNX Runtime does not take the model; its reason is given.
    """

    def __init__(
        self, proto: bytes, outputs: Sequence[str] | None = None, *, threads: int = 0
    ) -> None:
        self._session: Any = session(emulate_half(proto), threads)
        source = self._session.get_inputs()[0]
        self.input_name: str = source.name
        first = source.shape[0] if source.shape else None
        self.batch: int | None = first if isinstance(first, int) else None
        self.sample: tuple[int | None, ...] = tuple(
            size if isinstance(size, int) else None for size in source.shape[1:]
        )
        self.outputs: tuple[str, ...] = tuple(
            outputs or [output.name for output in self._session.get_outputs()]
        )

    def batches(self, split: Split, size: int) -> Iterator[tuple[int, Array]]:
        """The split's inputs, `size` at a time, each with the index of its first sample.

        A batch that the model fixes goes before `size`; samples that do not fill it are left out.
        """
        return split.batches_for(self.batch, size)

    def run(self, inputs: Array) -> dict[str, Array]:
        """Every asked-for tensor by name, for one batch of the model's single input."""
        values = self._session.run(list(self.outputs), {self.input_name: inputs})
        return dict(zip(self.outputs, values, strict=True))

    def close(self) -> None:
        """Free the session."""
        self._session = None


def kind_of(proto: bytes, split: Split) -> OutputKind:
    """What the model's first output is, by its values for the first samples of a split.

    A batch that the model fixes is filled up with samples again.
    """
    with Oracle(proto) as oracle:
        size = oracle.batch or _TOLD_BY
        count = max(_TOLD_BY, size)
        samples = split.inputs(0, count)
        filled = np.take(samples, range(-(-len(samples) // size) * size), axis=0, mode="wrap")
        parts = [filled[start : start + size] for start in range(0, len(filled), size)]
        answers = [oracle.run(part)[oracle.outputs[0]] for part in parts]
    return output_kind(np.concatenate(answers))


def with_outputs(proto: bytes, tensors: Sequence[str]) -> bytes:
    """The model with `tensors` among its graph outputs; their types are left to be inferred."""
    import onnx

    return expose(proto, onnx.load_model_from_string(proto).graph, tensors)


def expose(proto: bytes, graph: onnx.GraphProto, tensors: Sequence[str]) -> bytes:
    """The same for a model whose graph is at hand.

    Protobuf merges what is appended to a message, so its weights need not be written again.
    """
    import onnx

    known = {output.name for output in graph.output}
    more = onnx.ModelProto()
    more.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(tensor)
        for tensor in tensors
        if tensor not in known
    )
    return proto + bytes(more.SerializeToString())


def first_not_finite(proto: bytes, inputs: Array) -> str:
    """The first node, by name and operator, that makes numbers NaN or infinite; "" if none does.

    Of its half types as emulated; `inputs` are a batch of the model's single input.
    """
    import onnx

    emulated = emulate_half(proto)
    model = onnx.load_model_from_string(emulated)
    types = types_of(model, trusting=True)
    made = [name for node in model.graph.node for name in node.output if name in types]
    floats = [name for name in made if types[name].kind == onnx.TensorProto.FLOAT]
    run = session(with_outputs(emulated, floats))
    values = run.run(floats, {run.get_inputs()[0].name: inputs})
    broken = {n for n, value in zip(floats, values, strict=True) if not np.isfinite(value).all()}
    last = None
    for node in model.graph.node:
        last = node if node.name else last  # the casts that round a result have no names
        if broken.intersection(node.output):
            return f"{last.name} ({last.op_type})" if last is not None else ""
    return ""


def evaluate(proto: bytes) -> list[Array]:
    """The outputs of a model without inputs.

    Raises:
        ModelError: ONNX Runtime does not take the model; its reason is given.
    """
    outputs: list[Array] = session(proto, threads=1).run(None, {})
    return outputs


def session(proto: bytes, threads: int = 0, *, frugal: bool = False) -> ort.InferenceSession:
    """An unoptimised CPU session, exact in products of integers; half types are not emulated.

    Args:
        proto: a serialised `onnx.ModelProto`.
        threads: CPU threads; 0 for the runtime's own choice.
        frugal: for many sessions side by side (`unoptimised`).

    Raises:
        ModelError: ONNX Runtime does not take the model; its reason is given.
    """
    return unoptimised(write_out(proto), threads, frugal=frugal)
