"""What each layer loses in each precision: the evidence that precision is decided on.

An `Alternative` is a model with one layer changed (`rtc.passes.quantise.one_layer` makes them).
Two engines give a `Sensitivity` of them, one row for each:

- `exact` runs every alternative from the change on: measured, half a forward pass for each;
- `fast` takes each layer's own noise to the output by gradients: estimated, six passes for all.
"""

from rtc.calibration.sensitivity.alternative import Alternative
from rtc.calibration.sensitivity.exact import exact
from rtc.calibration.sensitivity.fast import fast
from rtc.calibration.sensitivity.local import LayerProbe, layer_snr
from rtc.calibration.sensitivity.result import Cost, LayerSensitivity, Sensitivity

__all__ = [
    "Alternative",
    "Cost",
    "LayerProbe",
    "LayerSensitivity",
    "Sensitivity",
    "exact",
    "fast",
    "layer_snr",
]
