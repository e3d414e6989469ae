"""The sizes that a model's tensors have when it runs on a batch, and the values of some of them."""

from __future__ import annotations

from collections.abc import Iterable

from rtc.calibration.oracle import session, with_outputs
from rtc.compiler.core.arrays import Array


def seen_sizes(
    proto: bytes, inputs: Array, tensors: Iterable[str], valued: Iterable[str] = ()
) -> tuple[dict[str, tuple[int, ...]], dict[str, Array]]:
    """The shapes of `tensors` and the values of those in `valued`, by name.

    Nothing else outlives the run, so it takes no more memory than the model does.

    Args:
        proto: a model with one input; its half types are not emulated.
        inputs: a batch of it.
        tensors: names of what nodes make.
        valued: the same.
    """
    import onnx

    sized, asked = sorted(set(tensors)), sorted(set(valued))
    more = onnx.ModelProto()
    more.graph.node.extend(
        onnx.helper.make_node("Shape", [name], [f"{name}/seen-sizes"]) for name in sized
    )
    outputs = [*(f"{name}/seen-sizes" for name in sized), *asked]
    if not outputs:
        return {}, {}
    running = session(with_outputs(proto + bytes(more.SerializeToString()), outputs))
    arrays = running.run(outputs, {running.get_inputs()[0].name: inputs})
    shapes = {name: tuple(map(int, each)) for name, each in zip(sized, arrays, strict=False)}
    return shapes, dict(zip(asked, arrays[len(sized) :], strict=True))
