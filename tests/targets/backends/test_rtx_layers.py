"""What TensorRT-RTX tells of the layers that it built, and what they cost."""

from __future__ import annotations

import pytest
from rtx_blocks import (
    ADA,
    BLOCK,
    block_model,
    block_weights,
    build_plan,
    float_block,
    half_block,
    owner_of,
    precisions_of,
    quantised_block,
)

from rtc.compiler.core.precision import Precision
from rtc.compiler.core.target import BuildRequest
from rtc.targets.backends.rtx_layers import parse


def test_traffic_and_operations_of_a_float_convolution() -> None:
    layer = owner_of(build_plan(float_block()), "conv2")
    activations = 16 * 8 * 8 * 4
    assert layer.bytes_per_sample == 3 * activations  # input, skip, output
    weights = 16 * 16 * 9 * 4
    assert layer.bytes_fixed is not None
    assert weights <= layer.bytes_fixed <= weights + 16 * 4 + 64  # bias, and a few scalars
    assert layer.flops_per_sample == 2 * (16 * 8 * 8) * (16 * 9)


def test_one_batch_and_several_batches_cost_the_same_per_sample() -> None:
    several = owner_of(build_plan(float_block()), "conv2")
    one = owner_of(build_plan(float_block(), BuildRequest(ADA, (8, 8, 8))), "conv2")
    assert one.bytes_per_sample == several.bytes_per_sample
    assert one.flops_per_sample == several.flops_per_sample


def test_every_layer_of_these_plans_has_known_costs() -> None:
    for model in (float_block(), half_block(), quantised_block()):
        for layer in build_plan(model).layers:
            assert None not in (layer.bytes_per_sample, layer.bytes_fixed, layer.flops_per_sample)


def test_a_scale_per_channel_makes_the_convolution_write_fp32_and_leave_its_relu() -> None:
    """Why the scheme has one weight scale per tensor."""
    per_tensor, per_channel = (
        build_plan(quantised_block()),
        build_plan(quantised_block(per_channel=True)),
    )
    assert "relu1" in owner_of(per_tensor, "conv1").onnx_nodes
    assert "relu1" not in owner_of(per_channel, "conv1").onnx_nodes
    assert precisions_of(per_channel, "conv1", "conv2") == [Precision.INT8] * 2
    assert {datatype for _, datatype, _ in owner_of(per_channel, "conv1").outputs} == {"Float"}


def test_unquantised_weights_show_as_a_float_convolution() -> None:
    weights = block_weights()
    text = BLOCK.replace("[w1_dq] w1 = DequantizeLinear <axis=0> (w1_i, w1_s, w1_z)\n", "")
    model = quantised_block()
    block = block_model(text.replace("<axis=0> ", ""), w1=weights["w1"])
    block.graph.initializer.extend(
        t for t in model.graph.initializer if not t.name.startswith("w1")
    )
    assert precisions_of(build_plan(block), "conv1", "conv2") == [Precision.FP32, Precision.INT8]


def test_names_with_brackets_commas_and_markup_are_kept() -> None:
    model = quantised_block()
    odd = {
        "conv1": "a[0], LayerType: x]<script>alert('x')</script>",
        "relu1": "b\nName: c, LayerType: e",
        "x_q": "/q, /r",
        "fc": "",
    }
    for node in model.graph.node:
        node.name = odd.get(node.name, node.name)
    built = build_plan(model)
    assert precisions_of(built, odd["conv1"], odd["relu1"]) == [Precision.INT8] * 2
    assert owner_of(built, odd["x_q"]).precision is None
    assert owner_of(built, "y").precision is Precision.FP32  # a node without a name: by its output
    assert len(built.layers) == len(build_plan(quantised_block()).layers)


MESSAGE = (
    "Layers:\n"
    "Name: node_Conv_9\n__gemm_myl0_52, LayerType: sparse_gemm, Inputs: [ { Name: t, Dimensions: "
    "[-1,960,49], Strides: [47040,49,1], StrideOrder: [2,1,0], Datatype: FP6, Format: (Linear) Row "
    "major linear format }, { Name: u[0], Dimensions: [], Strides: [], StrideOrder: [], Datatype: "
    "Half, Format: (Linear) Row major linear format }], Constants: [], Outputs: [], TacticName: k, "
    "StreamId: 0, Metadata: [ONNX Layer: node_Conv_9]__gemm_from_conv1x1\x1f[ONNX Layer: a[1]]\n"
    "Name: __mye7_myl0_53, LayerType: wait, Inputs: [], Constants: [], Outputs: [], TacticName: , "
    "StreamId: 0, Metadata: \n\nI/O Tensors:\n Name: x, IOMode: Input, DataType: Float"
)


def test_a_layer_list_with_kinds_and_types_that_nobody_knows() -> None:
    gemm, wait = parse(MESSAGE)
    assert (gemm.name, gemm.kind) == ("node_Conv_9\n__gemm_myl0_52", "sparse_gemm")
    assert gemm.nodes == ("node_Conv_9", "a[1]")
    assert [(t.name, t.dims, t.datatype) for t in gemm.inputs] == [
        ("t", (-1, 960, 49), "FP6"),
        ("u[0]", (), "Half"),
    ]
    assert (wait.kind, wait.nodes, wait.inputs) == ("wait", (), ())


@pytest.mark.parametrize(
    "message", ["", "Layers:", "Layers:\nName: x, LayerType: y", MESSAGE[:300]]
)
def test_a_layer_list_in_another_form_is_empty(message: str) -> None:
    assert parse(message) == ()
