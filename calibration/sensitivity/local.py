"""How much noise INT8 adds at each layer: its signal-to-noise ratio when it alone is quantised.

One walk serves every layer: beside each stands a copy that reads the *float* activation through
Q/DQ and has fake-quantised weights. With y the float output and e the copy's difference from it,

    SNR = 10 · log10(Σ y² / Σ e²)  decibels, over all elements and all samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rtc.calibration.oracle import Oracle
from rtc.calibration.quantise import (
    activation_parameters,
    dequantise_weight,
    quantise_weight,
    refuse_old_opset,
    weight_parameters,
)
from rtc.compiler.core.arrays import Array
from rtc.compiler.core.data import Split
from rtc.compiler.core.errors import DataError
from rtc.compiler.core.passes import TensorRange
from rtc.compiler.core.progress import Progress, silent
from rtc.compiler.core.target import QuantScheme

if TYPE_CHECKING:
    import onnx

_BATCH = 8  # copies stand beside every layer: 32 images for a ResNet-50 took 7 GB
_LIMIT_DB = 120.0  # float32 carries no more


@dataclass(frozen=True)
class LayerProbe:
    """A layer to probe.

    Attributes:
        layer: its node's name.
        axis: of its weight, that of the output channels.
        seen: its input's range.
        paired: whether its weights have to leave room for their neighbours.
    """

    layer: str
    axis: int
    seen: TensorRange
    paired: bool = False


def layer_snr(
    proto: bytes,
    probes: Sequence[LayerProbe],
    scheme: QuantScheme,
    split: Split,
    progress: Progress = silent,
) -> dict[str, float]:
    """Decibels by layer, within ±120; streamed, so memory does not grow with the samples.

    Raises:
        DataError: a layer's output is not finite.
        ModelError: the model's opset is older than Q/DQ with an axis.
    """
    signal = {probe.layer: 0.0 for probe in probes}
    noise = dict(signal)
    with Oracle(_probe_graph(proto, probes, scheme)) as oracle:
        for start, inputs in oracle.batches(split, _BATCH):
            powers = oracle.run(inputs)
            for number, probe in enumerate(probes):
                signal[probe.layer] += float(powers[f"rtc/signal/{number}"])
                noise[probe.layer] += float(powers[f"rtc/noise/{number}"])
            progress(start + len(inputs), len(split))
    return {name: _decibels(name, signal[name], noise[name]) for name in signal}


def _decibels(layer: str, signal: float, noise: float) -> float:
    if not math.isfinite(signal + noise):
        raise DataError(
            "a layer's output is not finite on the calibration samples",
            where=f"layer {layer}",
            id="not-finite-activation",
        )
    if noise == 0.0:
        return _LIMIT_DB
    if signal == 0.0:
        return -_LIMIT_DB
    return max(-_LIMIT_DB, min(_LIMIT_DB, 10 * math.log10(signal / noise)))


def _probe_graph(proto: bytes, probes: Sequence[LayerProbe], scheme: QuantScheme) -> bytes:
    """The model with a quantised copy beside each probed layer; outputs are powers, as scalars."""
    import onnx

    model = onnx.load_model_from_string(proto)
    refuse_old_opset(next(opset.version for opset in model.opset_import if not opset.domain))
    graph = model.graph
    nodes = {node.name: node for node in graph.node}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    del graph.output[:]
    for number, probe in enumerate(probes):
        node = nodes[probe.layer]
        weight = onnx.numpy_helper.to_array(constants[node.input[1]])
        copy = _copy(node, number)
        graph.initializer.extend(_constants(weight, probe, number, scheme))
        graph.node.extend(_branch(node, copy, number))
        for part in ("signal", "noise"):
            name = f"rtc/{part}/{number}"
            graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    return bytes(model.SerializeToString())


def _copy(node: onnx.NodeProto, number: int) -> onnx.NodeProto:
    """The layer again, on quantised inputs."""
    import onnx

    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = f"rtc/copy/{number}"
    copy.input[0], copy.input[1] = f"rtc/x/{number}", f"rtc/weight/{number}"
    copy.output[0] = f"rtc/y/{number}"
    return copy


def _constants(
    weight: Array, probe: LayerProbe, number: int, scheme: QuantScheme
) -> list[onnx.TensorProto]:
    """The fake-quantised weight, and the activation's scale and zero point."""
    import onnx

    scales = weight_parameters(
        weight,
        probe.axis,
        per_channel=scheme.per_channel,
        how=scheme.weight_scales,
        paired=probe.paired,
    )
    rounded = dequantise_weight(quantise_weight(weight, scales, probe.axis), scales, probe.axis)
    activation = activation_parameters(probe.seen, scheme.activation)
    arrays = {"weight": rounded, "scale": activation.scale, "zero": activation.zero_point}
    return [
        onnx.numpy_helper.from_array(array, f"rtc/{part}/{number}")
        for part, array in arrays.items()
    ]


def _branch(node: onnx.NodeProto, copy: onnx.NodeProto, number: int) -> list[onnx.NodeProto]:
    """Q and DQ of the layer's float input, the copy, and the powers of signal and noise."""
    import onnx

    make = onnx.helper.make_node
    pair = [f"rtc/scale/{number}", f"rtc/zero/{number}"]
    q, error = f"rtc/q/{number}", f"rtc/error/{number}"
    signal, noise = f"rtc/signal/{number}", f"rtc/noise/{number}"
    return [
        make("QuantizeLinear", [node.input[0], *pair], [q]),
        make("DequantizeLinear", [q, *pair], [copy.input[0]]),
        copy,
        make("Sub", [copy.output[0], node.output[0]], [error]),
        make("ReduceSumSquare", [error], [noise], keepdims=0),
        make("ReduceSumSquare", [node.output[0]], [signal], keepdims=0),
    ]
