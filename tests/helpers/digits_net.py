"""A small classifier of real digits as an ONNX model, made without PyTorch.

`Conv → Relu → MaxPool → Flatten → Gemm`: the filters are random, and the last layer is solved for,
so it takes a second and stands above 90 % (random features, Rahimi & Recht 2007).
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rtc.calibration.data import load_splits
from rtc.calibration.oracle import Oracle
from rtc.compiler.core.data import Split, Splits
from rtc.recipes.datasets.mnist import mnist5k

CHANNELS = 6


def digits(seed: int = 7) -> Splits:
    return load_splits(mnist5k(), (0.4, 0.1, 0.2), seed)


def digits_net(train: Split, *, batch: str | int = "batch", seed: int = 0) -> bytes:
    """A serialised model that classifies digits, trained on `train`."""
    rng = np.random.default_rng(seed)
    filters = rng.standard_normal((CHANNELS, 1, 5, 5)).astype(np.float32) / 5
    front = _model(filters, None, batch="batch")
    with Oracle(front) as oracle:
        features = np.concatenate([oracle.run(x)["features"] for x in train.batches(500)]).astype(
            np.float64
        )
    return _model(filters, _ridge(features, train.labels), batch=batch)


def _ridge(features: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """Weights (10, F + 1) of the least-squares classifier; the last column is the bias."""
    assert labels is not None
    x = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    wanted = np.eye(10)[labels] * 2 - 1
    penalty = 10.0 * np.eye(x.shape[1])
    return np.linalg.solve(x.T @ x + penalty, x.T @ wanted).T.astype(np.float32)


def _model(filters: np.ndarray, readout: np.ndarray | None, *, batch: str | int) -> bytes:
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["c"], "conv", pads=[2, 2, 2, 2]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("MaxPool", ["r"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["features"], "flatten"),
    ]
    weights = [numpy_helper.from_array(filters, "w")]
    output, width = "features", CHANNELS * 14 * 14
    if readout is not None:
        nodes.append(helper.make_node("Gemm", ["features", "v", "b"], ["logits"], "fc", transB=1))
        weights.append(numpy_helper.from_array(np.ascontiguousarray(readout[:, :-1]), "v"))
        weights.append(numpy_helper.from_array(np.ascontiguousarray(readout[:, -1]), "b"))
        output, width = "logits", 10
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 1, 28, 28])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, width])],
        weights,
    )
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()
