from dataclasses import replace

import numpy as np
import pytest
from audited_digits import WANTED, found, planted
from check_pass import parse
from digits_net import digits_net

from rtc.calibration.audit import audit
from rtc.calibration.normalisation import mistake, moments
from rtc.calibration.preparation import better_preparation
from rtc.compiler.core.data import Preprocess, Split


def test_a_clean_set_has_no_fault(model, clean):
    result = audit(clean, 10, model, WANTED)
    assert result.faults == ()
    assert (result.samples, result.reference) == (len(clean.calibration), "train")
    assert result.stability.enough < result.samples


def doubled(raw, labels):
    raw[7] = raw[3]
    return raw, labels


def constant(raw, labels):
    raw[5] = 9
    return raw, labels


def overexposed(raw, labels):
    return np.minimum(raw.astype(int) * 4 + 80, 255).astype(raw.dtype), labels


def without_class_4(raw, labels):
    return raw[labels != 4], labels[labels != 4]


def between_0_and_1(raw, labels):
    return raw / np.float32(255), labels


def few(raw, labels):
    return raw[:6], labels[:6]


@pytest.mark.parametrize(
    ("change", "name", "seen"),
    [
        (doubled, "duplicates", "1 of 500 samples equal an earlier one: 7"),
        (constant, "constant", "1 of 500 samples hold one value each: at 5"),
        (overexposed, "saturated", "of the values are the greatest there is"),
        (without_class_4, "classes-missing", "1 of 10 classes have no sample: 4"),
        (between_0_and_1, "normalisation", "0-1 where the model expects 0-255"),
        (few, "too-few-samples", "from 6 samples nothing can be told of how far"),
    ],
)
def test_a_planted_fault_is_named(change, name, seen, model, clean):
    faults = found(model, planted(clean, change))
    assert seen in faults[name].seen
    assert faults[name].fix
    if change in (doubled, constant, without_class_4):
        assert set(faults) == {name}


def test_samples_of_the_test_set_are_named(model, clean):
    def mixed(raw, labels):
        raw[:3] = clean.test.raw[:3]
        return raw, labels

    faults = found(model, planted(clean, mixed))
    assert set(faults) == {"overlap"}
    assert faults["overlap"].seen.startswith("3 of 500 samples are in the test set: 0, 1, 2")


IMAGENET = Preprocess(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "hwc")
MEAN, STD = np.array(IMAGENET.mean), np.array(IMAGENET.std)


def pictures(seed):
    """Colour images of 0-255 with ImageNet's means and deviations."""
    random = np.random.default_rng(seed)
    return np.clip((random.standard_normal((200, 8, 8, 3)) * STD + MEAN) * 255, 0, 255)


@pytest.mark.parametrize(
    ("prepare", "named"),
    [
        (lambda x: x, None),
        (lambda x: x * 1.05, None),
        (lambda x: x[..., ::-1], "channels swapped (BGR for RGB)"),
        (lambda x: x / 255, "0-1 where the model expects 0-255"),
        (lambda x: x * 255, "0-255 where the model expects 0-1"),
        (lambda x: (x / 255 - MEAN) / STD, "normalised already, and preprocessing does it again"),
        (
            lambda x: x * 0.2 + 90,
            "no known mistake explains it: are these images of the same kind?",
        ),
    ],
)
def test_what_was_done_to_the_samples_is_named(prepare, named):
    reference = Split("train", pictures(0), None, IMAGENET)
    split = Split("calibration", prepare(pictures(1)), None, IMAGENET)
    assert mistake(moments(split), moments(reference), IMAGENET) == named


@pytest.mark.parametrize(
    ("prepare", "named"),
    [
        (lambda x: x * STD + MEAN, "ImageNet mean and std forgotten"),
        (lambda x: (x * STD + MEAN) * 255, "ImageNet mean and std forgotten, and 0-255 for 0-1"),
        (lambda x: (x - MEAN) / STD, "ImageNet mean and std applied twice"),
    ],
)
def test_imagenets_normalisation_forgotten_in_arrays_prepared_elsewhere(prepare, named):
    plain = Preprocess(layout="hwc")
    reference = Split("train", (pictures(0) / 255 - MEAN) / STD, None, plain)
    split = Split("calibration", prepare((pictures(1) / 255 - MEAN) / STD), None, plain)
    assert mistake(moments(split), moments(reference), plain) == named


def coloured():
    """Images whose class is the channel of about 187: one of the others is brighter, one darker."""
    labels = np.arange(120) % 3
    raw = np.random.default_rng(1).uniform(120, 135, (120, 4, 4, 3))
    raw[np.arange(120), :, :, labels] += 60
    raw[np.arange(120), :, :, (labels + 1) % 3] += 115
    return raw.astype(np.uint8), labels


@pytest.mark.parametrize(
    ("scale", "named"),
    [
        (1 / 255, None),
        (1.0, "values 255 times smaller (0-1 for 0-255)"),
        (1 / 255**2, "values 255 times larger (0-255 for 0-1)"),
    ],
)
def test_a_recipe_that_prepares_every_sample_wrongly_is_found_by_the_model(scale, named):
    split = Split("test", *coloured(), Preprocess(scale, layout="hwc"))
    better = better_preparation(centred_net(), split)
    assert (better.name if better else None) == named


def test_swapped_channels_of_every_sample_are_found_by_the_model():
    raw, labels = coloured()
    split = Split("test", raw[..., ::-1], labels, Preprocess(1 / 255, layout="hwc"))
    found = better_preparation(centred_net(), split)
    assert found.name == "channels in the other order (BGR for RGB)"
    assert found.before.value < 0.5
    assert found.after.value > 0.95


def test_a_model_that_only_guesses_tells_nothing(clean):
    noise = np.random.default_rng(0).permutation(clean.test.labels)
    guessed = replace(clean.test, labels=noise)
    assert better_preparation(digits_net(clean.train), guessed) is None
    assert better_preparation(digits_net(clean.train), replace(clean.test, labels=None)) is None


def centred_net():
    """Images (N, 3, 4, 4) of 0-1 to the channel that is nearest 0.73 on average."""
    return parse(
        """g (float[N,3,4,4] x) => (float[N,3] y) <float wanted = {0.73}> {
        [mean] m = GlobalAveragePool(x)
        [flat] f = Flatten(m)
        [off] d = Sub(f, wanted)
        [size] a = Abs(d)
        [nearest] y = Neg(a)
    }"""
    ).onnx.proto
