"""The reference: ONNX Runtime with every graph optimisation disabled.

Optimised ORT is never the reference: its fusions have been seen to change results (`Pad` fused into
`MaxPool`). See the "Oracles lie" section of the troubleshooting notes.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rtc.compiler.core.data import Array


class Oracle:
    """An unoptimised CPU session over one model; a context manager.

    Args:
        proto: a serialised `onnx.ModelProto`.
        outputs: the tensors to return; the model's own outputs when not given. They must be graph
            outputs already.
        threads: CPU threads; 0 for the runtime's own choice.
    """

    def __init__(
        self, proto: bytes, outputs: Sequence[str] | None = None, *, threads: int = 0
    ) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = ort.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
        self.input_name: str = self._session.get_inputs()[0].name
        self.outputs: tuple[str, ...] = tuple(
            outputs or [output.name for output in self._session.get_outputs()]
        )

    def run(self, inputs: Array) -> dict[str, Array]:
        """Every asked-for tensor by name, for one batch of the model's single input."""
        values = self._session.run(list(self.outputs), {self.input_name: inputs})
        return dict(zip(self.outputs, values, strict=True))

    def __enter__(self) -> Oracle:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del self._session
