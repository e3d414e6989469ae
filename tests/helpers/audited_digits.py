"""Digits with planted faults, and what an audit finds in them."""

from dataclasses import dataclass, replace

from rtc.calibration.audit import audit
from rtc.compiler.core.data import Split
from rtc.compiler.core.passes import Observation

WANTED = frozenset(Observation(name, "percentile") for name in ("input", "r", "features", "logits"))


@dataclass(frozen=True)
class Given:
    train: Split
    calibration: Split
    test: Split
    digest: str = ""


def found(model, data):
    return {fault.name: fault for fault in audit(data, 10, model, WANTED).faults}


def planted(data, change):
    """The data with other calibration samples: `change` of the raw ones and their labels."""
    split = data.calibration
    raw, labels = change(split.raw.copy(), split.labels.copy())
    return replace(data, calibration=replace(split, raw=raw, labels=labels))
