"""Small networks and targets that the precision passes are tested on."""

from __future__ import annotations

import numpy as np
from check_pass import parse, random_samples

from rtc.calibration.collect import collect
from rtc.compiler.core.passes import PassContext, TargetContext
from rtc.compiler.core.precision import Precision, PrecisionPlan, Variant
from rtc.compiler.core.target import DeviceProfile, QuantScheme
from rtc.compiler.core.unit import Unit
from rtc.passes.quantise.assign_precision import AssignPrecision

ONNXRUNTIME = QuantScheme("uint8", quantise_outputs=True, int8_ops=("Conv", "Gemm", "MatMul"))
OPENVINO = QuantScheme("uint8", half="bf16", half_in_graph=False)
TENSORRT = QuantScheme("int8", half="fp16")
FLOAT_ONLY = QuantScheme("uint8")

PROFILE = DeviceProfile("somewhere", "someone", "cpu", ())


def residual(seed: int = 0) -> Unit:
    """Convolutions with a residual, a depthwise one, pools and a fully connected layer."""
    random = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray:
        spread = np.sqrt(2 / np.prod(shape[1:]))
        return (random.standard_normal(shape) * spread).astype(np.float32)

    return parse(
        """g (float[N,3,16,16] x) => (float[N,10] y) {
        [stem] s = Conv<pads = [1,1,1,1]>(x, w_stem, b_stem)
        [stem_relu] a = Relu(s)
        [conv1] c1 = Conv<pads = [1,1,1,1]>(a, w1, b1)
        [conv1_relu] r1 = Relu(c1)
        [conv2] c2 = Conv<pads = [1,1,1,1]>(r1, w2, b2)
        [join] j = Add(c2, a)
        [join_relu] r2 = Relu(j)
        [depthwise] d = Conv<group = 16, pads = [1,1,1,1]>(r2, w_depth)
        [depthwise_relu] rd = Relu(d)
        [pointwise] p = Conv(rd, w_point, b_point)
        [pointwise_relu] rp = Relu(p)
        [pool] m = MaxPool<kernel_shape = [2,2], strides = [2,2]>(rp)
        [conv3] c3 = Conv<pads = [1,1,1,1]>(m, w3)
        [mean] g = GlobalAveragePool(c3)
        [flat] f = Flatten(g)
        [fc] y = Gemm<transB = 1>(f, w_fc, b_fc)
    }""",
        w_stem=weights(16, 3, 3, 3),
        b_stem=weights(16),
        w1=weights(16, 16, 3, 3),
        b1=weights(16),
        w2=weights(16, 16, 3, 3),
        b2=weights(16),
        w_depth=weights(16, 1, 3, 3),
        w_point=weights(32, 16, 1, 1),
        b_point=weights(32),
        w3=weights(32, 32, 3, 3),
        w_fc=weights(10, 32),
        b_fc=weights(10),
    )


def context(unit: Unit, scheme: QuantScheme, samples: int = 32) -> PassContext:
    """A context with the ranges of everything that a plan may quantise."""
    data = random_samples(unit, samples)
    ranges = collect(unit.onnx.proto, AssignPrecision().needs(unit), data.calibration)
    return PassContext(data, target=TargetContext(PROFILE, "some", scheme, 8), statistics=ranges)


def planned(unit: Unit, scheme: QuantScheme, variant: Variant, **options: object) -> PassContext:
    """The context with a plan in it, for the passes that write one."""
    from dataclasses import replace

    ctx = context(unit, scheme)
    return replace(ctx, plan=AssignPrecision(variant=variant, **options).apply(unit, ctx).plan)


def quantised(plan: PrecisionPlan | None) -> tuple[str, ...]:
    """Names of the layers planned in INT8, in plan order."""
    assert plan is not None
    return tuple(n for n, d in plan.layers.items() if d.precision is Precision.INT8)
