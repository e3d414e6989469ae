"""Products of integers whose weights come in every form."""

from __future__ import annotations

import numpy as np
import onnx
from check_pass import parse

from rtc.targets.backends import x86

SCALES = "float ws = {0.01}, int8 wz = {0}, uint8 uz = {128}"
WEIGHTS = {
    # lines that make `wd` (8, 4), float, of the integers `w` (8, 4), int8
    "stored": "wd = DequantizeLinear (w, ws, wz)",
    "no zero point": "wd = DequantizeLinear (w, ws)",
    "constant node": "wd = DequantizeLinear (w, ws, wz)",
    "identity": "i = Identity (w) wd = DequantizeLinear (i, ws, wz)",
    "identity behind": "i = DequantizeLinear (w, ws, wz) wd = Identity (i)",
    "transpose": "t = Transpose (w) u = Transpose (t) wd = DequantizeLinear (u, ws, wz)",
    "transpose behind": "t = Transpose (w) u = DequantizeLinear (t, ws, wz) wd = Transpose (u)",
    "reshape": "s = Constant <value = int64[2] {8, 4}> () f = Flatten <axis = 0> (w) "
    "d = DequantizeLinear (f, ws, wz) wd = Reshape (d, s)",
    "squeeze": "a = Constant <value = int64[1] {0}> () u = Unsqueeze (w, a) "
    "d = DequantizeLinear (u, ws, wz) wd = Squeeze (d, a)",
    "slice": "c = Concat <axis = 0> (w, w) b = Constant <value = int64[1] {8}> () "
    "e = Constant <value = int64[1] {16}> () d = DequantizeLinear (c, ws, wz) wd = Slice (d, b, e)",
    "cast and mul": "c = Cast <to = 1> (w) wd = Mul (c, ws)",
    "mul behind": "d = DequantizeLinear (w, ws, wz) wd = Mul (d, ws)",
    "from floats": "c = Cast <to = 1> (w) f = Mul (c, ws) r = QuantizeLinear (f, ws, wz) "
    "wd = DequantizeLinear (r, ws, wz)",
    "twice": "d = DequantizeLinear (w, ws, wz) r = QuantizeLinear (d, ws, wz) "
    "wd = DequantizeLinear (r, ws, wz)",
    "unsigned": "c = Cast <to = 6> (w) h = Constant <value = int32 {128}> () s = Add (c, h) "
    "u = Cast <to = 2> (s) wd = DequantizeLinear (u, ws, uz)",
}
LAYERS = {
    "MatMul": "y = MatMul (xd, wd)",
    "Gemm": "y = Gemm (xd, wd)",
    "transB": "wt = Transpose (wd) y = Gemm <transB = 1> (xd, wt)",
    "first": "wt = Transpose (wd) xt = Transpose (xd) yt = MatMul (wt, xt) y = Transpose (yt)",
    "Conv": """ks = Constant <value = int64[4] {4, 8, 1, 1}> () kt = Transpose (wd)
        k = Reshape (kt, ks) xr = Constant <value = int64[4] {0, 8, 1, 1}> () x4 = Reshape (xd, xr)
        y4 = Conv (x4, k) y = Flatten (y4)""",
    "Einsum": 'y = Einsum <equation = "nk,km->nm"> (xd, wd)',
}
INTEGER_LAYERS = {
    "QLinearMatMul": "p = QLinearMatMul (q, xs, xz, w, ws, wz, ys, xz)",
    "MatMulInteger": "m = MatMulInteger (q, w, xz, wz) y = Cast <to = 1> (m)",
    "through Identity": "i = Identity (w) m = MatMulInteger (q, i, xz) y = Cast <to = 1> (m)",
    "QGemm": "p = com.microsoft.QGemm (q, xs, xz, w, ws, wz, , ys, xz)",
    "float QGemm": "y = com.microsoft.QGemm (q, xs, xz, w, ws, wz)",
    "MatMulIntegerToFloat": "y = com.microsoft.MatMulIntegerToFloat (q, w, xs, ws, xz, wz)",
    "DynamicQuantizeMatMul": "y = com.microsoft.DynamicQuantizeMatMul (x, w, ws, wz)",
    "QLinearConv": """s = Constant <value = int64[4] {4, 8, 1, 1}> () wt = Transpose (w)
        k = Reshape (wt, s) xr = Constant <value = int64[4] {0, 8, 1, 1}> () q4 = Reshape (q, xr)
        p4 = QLinearConv (q4, xs, xz, k, ws, wz, ys, xz) p = Flatten (p4)""",
}
PAIRED = np.tile(np.array([[100], [28]], np.int8), (4, 4))  # neighbours add up to 128
OVER = np.tile(np.array([[100], [29]], np.int8), (4, 4))


def model(body: str, activation: str = "uint8", inputs: str = "", **weights: np.ndarray) -> bytes:
    text = f"""g (float[N,8] x{inputs}) => (float[N,M] y)
    <float xs = {{0.02}}, {activation} xz = {{0}}, float ys = {{0.1}}, {SCALES}> {{
        q = QuantizeLinear (x, xs, xz) xd = DequantizeLinear (q, xs, xz)
        {body}
    }}"""
    unit = parse(text, **weights)
    found = onnx.load_model_from_string(unit.onnx.proto)
    found.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    return found.SerializeToString()


def weighted(layer: str, form: str, weights: np.ndarray, activation: str = "uint8") -> bytes:
    proto = model(f"{WEIGHTS[form]}\n{LAYERS[layer]}", activation, w=weights)
    return without_initializer(proto) if form == "constant node" else proto


def integer(layer: str, weights: np.ndarray, activation: str = "uint8") -> bytes:
    body = INTEGER_LAYERS[layer]
    ends = "" if "y = " in body else "y = DequantizeLinear (p, ys, xz)"
    return model(f"{body}\n{ends}", activation, w=weights)


def without_initializer(proto: bytes) -> bytes:
    found = onnx.load_model_from_string(proto)
    (weights,) = (each for each in found.graph.initializer if each.name == "w")
    found.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w"], value=weights))
    found.graph.initializer.remove(weights)
    return found.SerializeToString()


def flagged(proto: bytes, **options: bool) -> bool:
    return bool(x86.overflowing(onnx.load_model_from_string(proto), **options))


def constant_first(kind: str, value: int) -> bytes:
    text = f"""g (float[8,M] v) => (float[4,M] y)
    <float ws = {{0.01}}, int8 wz = {{0}}, {kind} zero = {{0}}> {{
        vq = QuantizeLinear (v, ws, wz) vd = DequantizeLinear (vq, ws, wz)
        wd = DequantizeLinear (w, ws, zero) y = MatMul (wd, vd)
    }}"""
    return parse(text, w=np.full((4, 8), value, kind)).onnx.proto
