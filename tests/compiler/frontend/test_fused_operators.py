"""Every fused operator against ONNX Runtime's own kernel for it."""

from __future__ import annotations

import numpy as np
import pytest
from one_operator import answers, model_of, operators, written

from rtc.compiler.core.parts import write_parts
from rtc.compiler.frontend.fused_operators import FUSED

DRAW = np.random.default_rng(0)
CONSTANTS = {
    "k": DRAW.normal(size=(4, 3, 3, 3)),
    "kb": DRAW.normal(size=4),
    "w": DRAW.normal(size=(8, 5)),
    "wt": DRAW.normal(size=(5, 8)),
    "wb": DRAW.normal(size=5),
    "b8": DRAW.normal(size=8),
    "g8": DRAW.normal(size=8) + 1,
    "qkv": DRAW.normal(size=(8, 24)) / 2,
    "qkvb": DRAW.normal(size=24),
    "qkv_uneven": DRAW.normal(size=(8, 20)) / 2,
    "qkvb_uneven": DRAW.normal(size=20),
}
FLOATS = {name: value.astype(np.float32) for name, value in CONSTANTS.items()}
IMAGE = DRAW.normal(size=(2, 3, 6, 6)).astype(np.float32)
ROWS = DRAW.normal(size=(3, 8)).astype(np.float32)
TOKENS = DRAW.normal(size=(2, 7, 8)).astype(np.float32)
SKIP = DRAW.normal(size=(2, 7, 8)).astype(np.float32)

ON_IMAGES = "g (float[N,3,6,6] x) => (float[N,4,H,W] y) {{ {} }}"
ON_ROWS = "g (float[N,8] x) => (float[N,M] y) {{ {} }}"
ON_TOKENS = "g (float[N,7,8] x, float[N,7,8] s) => (float[N,7,M] y) {{ {} }}"

CONVOLUTIONS = {
    "relu": '<activation="Relu", pads=[1,1,1,1]>(x, k, kb)',
    "strided": '<activation="Tanh", strides=[2,2], kernel_shape=[3,3]>(x, k)',
    "clip": '<activation="Clip", activation_params=[-0.5, 1.5]>(x, k, kb)',
    "leaky": '<activation="LeakyRelu", activation_params=[0.2]>(x, k, kb)',
    "hard": '<activation="HardSigmoid", activation_params=[0.3, 0.4]>(x, k, kb)',
    "added": '<activation="Relu", pads=[1,1,1,1]>(x, k, kb, c)',
}
OF_ROWS = {
    "gemm": '[f] y = com.microsoft.FusedGemm<activation="Relu", alpha=0.5>(x, w, wb)',
    "gemm_turned": '[f] y = com.microsoft.FusedGemm<activation="Sigmoid", transB=1>(x, wt, wb)',
    "gemm_leaky": (
        '[f] y = com.microsoft.FusedGemm<activation="LeakyRelu", activation_alpha=0.3>(x, w, wb)'
    ),
    "gelu": "[f] y = com.microsoft.Gelu(x)",
    "bias_gelu": "[f] y = com.microsoft.BiasGelu(x, b8)",
    "fast_gelu": "[f] y = com.microsoft.FastGelu(x)",
    "fast_gelu_bias": "[f] y = com.microsoft.FastGelu(x, b8)",
    "quick_gelu": "[f] y = com.microsoft.QuickGelu<alpha=1.5>(x)",
    "matmul": "[f] y = com.microsoft.FusedMatMul<alpha=0.25>(x, w)",
    "matmul_turned": "[f] y = com.microsoft.FusedMatMul<transB=1>(x, wt)",
}
OF_TOKENS = {
    "skip": "[f] y = com.microsoft.SkipLayerNormalization<epsilon=0.001>(x, s, g8, b8, b8)",
    "skip_plain": "[f] y = com.microsoft.SkipLayerNormalization<epsilon=0.001>(x, s, g8)",
    "skip_sum": "[f] z, , , t = com.microsoft.SkipLayerNormalization(x, s, g8, b8) y = Add(z, t)",
    "skip_sum_biased": (
        "[f] z, , , t = com.microsoft.SkipLayerNormalization(x, s, g8, b8, b8) y = Add(z, t)"
    ),
    "products": "[f] p = com.microsoft.FusedMatMul<alpha=0.5, transB=1>(x, s) y = Identity(p)",
    "products_turned": "[f] p = com.microsoft.FusedMatMul<transA=1>(x, s) y = MatMul(s, p)",
    "attention": "[f] y = com.microsoft.Attention<num_heads=2>(x, qkv, qkvb)",
    "attention_scaled": "[f] y = com.microsoft.Attention<num_heads=4, scale=0.1>(x, qkv, qkvb)",
    "attention_uneven": (
        "[f] y = com.microsoft.Attention<num_heads=2, qkv_hidden_sizes=[6,6,8]>"
        "(x, qkv_uneven, qkvb_uneven)"
    ),
    "heads": "[f] y = com.microsoft.MultiHeadAttention<num_heads=2>(x, s, s)",
    "heads_biased": "[f] y = com.microsoft.MultiHeadAttention<num_heads=4>(x, s, s, qkvb)",
}


def _check(text: str, feeds: dict[str, np.ndarray]) -> None:
    model = model_of(text, FLOATS)
    made = written(model, FUSED)
    assert not any(name.startswith("com.microsoft") for name in operators(made))
    wanted, seen = answers(model, feeds)[0], answers(made, feeds)[0]
    np.testing.assert_allclose(seen, wanted, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_a_fused_convolution(case: str) -> None:
    before = "[one] c = Conv<pads=[1,1,1,1]>(x, k)" if case == "added" else ""
    text = ON_IMAGES.format(f"{before} [f] y = com.microsoft.FusedConv{CONVOLUTIONS[case]}")
    _check(text, {"x": IMAGE})
    made = written(model_of(text, FLOATS), FUSED)
    assert [node.op_type for node in made.graph.node if node.name == "f"] == ["Conv"]


@pytest.mark.parametrize("case", OF_ROWS)
def test_on_rows(case: str) -> None:
    _check(ON_ROWS.format(OF_ROWS[case]), {"x": ROWS})


@pytest.mark.parametrize("case", OF_TOKENS)
def test_on_tokens(case: str) -> None:
    feeds = {"x": TOKENS, "s": SKIP}
    text = ON_TOKENS.format(OF_TOKENS[case])
    read = {name for node in model_of(text, {}).graph.node for name in node.input}
    _check(text, {name: value for name, value in feeds.items() if name in read or name == "s"})


@pytest.mark.parametrize(
    ("operator", "why"),
    [
        ("Attention<num_heads=2, unidirectional=1>(x, qkv, qkvb)", "one direction"),
        ("MultiHeadAttention<num_heads=2, unidirectional=1>(x, s, s)", "one direction"),
        ("FusedMatMul<transBatchA=1>(x, s)", "turns the batch"),
    ],
)
def test_what_has_no_parts_is_told(operator: str, why: str) -> None:
    model = model_of(ON_TOKENS.format(f"[f] y = com.microsoft.{operator}"), FLOATS)
    done = write_parts(model, FUSED)
    assert done.operators == set()
    assert done.left[0].startswith("f (")
    assert why in done.left[0]


def test_an_activation_that_nobody_knows_leaves_the_node() -> None:
    conv = '[f] y = com.microsoft.FusedConv<activation="Mine">(x, k)'
    left = write_parts(model_of(ON_IMAGES.format(conv), FLOATS), FUSED).left
    assert left == ("f (FusedConv): its activation Mine is not known",)
