import numpy as np
import pytest
from check_pass import parse
from nets import residual

from rtc.compiler.core.errors import RecipeError
from rtc.passes.support.observing import observations
from rtc.passes.support.onnx_graph import read


def kinds(by_layer=None):
    found = observations(read(residual()), "percentile", by_layer or {})
    return {each.tensor: each.kind for each in found}


def test_every_tensor_has_one_observer():
    assert kinds() == dict.fromkeys(
        ("x", "a", "r1", "c2", "r2", "rd", "rp", "c3", "g", "y"), "percentile"
    )


def test_a_layers_observer_watches_what_it_reads():
    found = kinds({"conv2": "entropy", "f*": "mse"})
    assert {name: kind for name, kind in found.items() if kind != "percentile"} == {
        "r1": "entropy",
        "g": "mse",
        "y": "mse",  # no layer reads the last output: it is the last layer's
    }


def test_a_name_beats_a_glob():
    assert kinds({"conv*": "mse", "conv2": "entropy", "con*": "mse"})["r1"] == "entropy"


def test_globs_must_agree_where_no_name_beats_them():
    with pytest.raises(RecipeError, match="two patterns") as error:
        kinds({"conv*": "mse", "con*": "minmax"})
    assert error.value.id == "contradictory-observers"
    names = {"conv1": "mse", "conv2": "entropy", "conv3": "mse"}
    assert kinds({"conv*": "mse", "con*": "minmax", **names})["r1"] == "entropy"


def test_layers_that_share_a_tensor_must_agree():
    assert kinds({"conv1": "mse"})["a"] == "mse"  # the residual Add reads it as well, and is silent
    with pytest.raises(RecipeError, match="different observers of a") as error:
        kinds({"conv1": "mse", "join": "minmax"})
    assert error.value.id == "contradictory-observers"


def test_a_pattern_that_matches_nothing_is_an_error():
    with pytest.raises(RecipeError) as error:
        kinds({"cnov1": "mse"})
    assert error.value.id == "unmatched-observer"
    assert "conv1" in error.value.fix


def test_neither_scalars_nor_sizes_nor_masks_are_observed():
    """What is one number for all samples, or none of theirs, has no range to quantise."""
    unit = parse(
        """g (float[N,3,4] x) => (float[N,3,5] y)
<float[1] half = {0.5}, float[3,4] mask = {0,0,0,0,0,0,0,0,0,0,0,0}> {
        [mean] m = ReduceMean<keepdims = 0>(x)
        [sum] m2 = Add(m, m)
        [shift] a = Sub(x, m2)
        [sizes] s = Shape(a)
        [floats] f = Cast<to = 1>(s)
        [halved] g = Mul(f, half)
        [joined] j = Concat<axis = 0>(f, g)
        [total] t = ReduceSum<keepdims = 0>(j)
        [masked] b = Add(a, mask)
        [scaled] c = Mul(b, t)
        [fc] y = MatMul(c, w)
    }""",
        w=np.ones((4, 5), np.float32),
    )
    assert {each.tensor for each in observations(read(unit), "minmax", {})} == {"c", "y"}
