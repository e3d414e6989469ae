from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from rtc.compiler.core.precision import Precision
from rtc.compiler.core.target import BuildRequest, BuiltLayer
from rtc.compiler.documents.build_json import BUILT_LAYERS, REQUEST
from rtc.targets.loader import profile


def test_a_request_comes_back_from_json_as_it_was() -> None:
    asked = BuildRequest(profile("cpu"), (1, 4, 8), threads=2, forms={1: "int8", 8: "usual"})
    text = json.dumps(REQUEST.dump_python(asked, mode="json"))
    assert REQUEST.validate_json(text) == asked


def test_layers_come_back_with_those_whose_precision_nobody_knows() -> None:
    layers = tuple(
        BuiltLayer(name, "Convolution", ("conv",), precision, (("y", "u8", "nhwc"),))
        for name, precision in (("a", Precision.INT8), ("b", None))
    )
    assert BUILT_LAYERS.validate_json(BUILT_LAYERS.dump_json(layers)) == layers


def test_a_precision_that_there_is_not_is_refused() -> None:
    layer = BuiltLayer("a", "Convolution", ("conv",), Precision.INT8, (("y", "u8", "nhwc"),))
    (document,) = BUILT_LAYERS.dump_python((layer,), mode="json")
    with pytest.raises(ValidationError, match="precision"):
        BUILT_LAYERS.validate_python([{**document, "precision": "int3"}])
