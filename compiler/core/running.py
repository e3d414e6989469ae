"""A model run by ONNX Runtime exactly as it stands: no graph optimisation, on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtc.compiler.core.errors import ModelError

if TYPE_CHECKING:
    import onnxruntime as ort


def unoptimised(proto: bytes, threads: int = 1, *, frugal: bool = False) -> ort.InferenceSession:
    """A CPU session that leaves the graph alone.

    Its threads do not spin between runs, where they would take the cores from who looks at the
    results. A frugal one's never spin, and it holds no memory between runs: for many side by side.

    Raises:
        ModelError: ONNX Runtime does not take the model; its reason is given.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = not frugal
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(not frugal)))
    options.add_session_config_entry("session.force_spinning_stop", "1")  # when a run ends
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    except Exception as cause:  # ORT raises a dozen unrelated classes
        raise ModelError(
            f"ONNX Runtime cannot load the model: {cause}", id="model-not-loadable"
        ) from cause
