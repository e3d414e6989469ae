"""Models run as a half type rounds them."""

import numpy as np

from rtc.calibration.oracle import Oracle


def run(unit, values):
    with Oracle(unit.onnx.proto) as oracle:
        return oracle.run(np.asarray(values, np.float32))
