from __future__ import annotations

from dataclasses import asdict

import pytest

from rtc.compiler.core.results import Curve
from rtc.compiler.publish.trained import Training, training_of
from rtc.passes.torch.training import History, Score

SCORE = Score(top1=0.5, loss=0.75, seconds=0.1, samples=4)
HISTORY = History(accuracy=(0.25, 0.5), loss=(1.0, 0.75), seconds=2.0)


def test_what_training_passes_tell_comes_back_as_types():
    details = {
        "curves": [HISTORY.curve("student")],
        "test": asdict(SCORE),
        "teacher": {"parameters": 3, "test": asdict(SCORE)},
        "because": "it is better",
    }
    assert training_of("distill", details) == Training(
        stage="distill",
        curves=(Curve("student", "distill", (0.25, 0.5), (1.0, 0.75), 2.0),),
        test=SCORE,
        contestants={"teacher": SCORE},
        because="it is better",
    )


@pytest.mark.parametrize(
    "details",
    [
        {},
        {"layers": [{"because": "another's reason"}]},
        {"test": 0.5, "curves": 3, "because": 4, "teacher": "none"},
        {"test": {"top1": 0.5}, "curves": [{"subject": "x"}, 7], "student": {"test": None}},
    ],
)
def test_details_of_other_passes_tell_nothing_of_training(details):
    assert training_of("other", details) == Training("other")
