"""Who takes part: each peer's search, where it has one, and what runs its engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contest import onnxruntime_static
from contest.models import Entrant, Trained
from contest.rtc_compile import ENGINE
from contest.search import MODEL, Found
from rtc.compiler.core.target import BuildRequest
from rtc.compiler.measure.comparison import Subject, engine_subject, float_subject
from rtc.targets import loader

RTC = "rtc"
EAGER = "torch eager"


@dataclass(frozen=True)
class Setting:
    """What all take part in: the model, and how many threads each may use."""

    entrant: Entrant
    trained: Trained
    recipe: Path
    threads: int

    @property
    def request(self) -> BuildRequest:
        return BuildRequest(loader.profile("cpu"), (1, 1, 1), self.threads)


Runs = Callable[[str, Setting, Found], Subject]
"""From a peer's name, the setting and what its search found, to what is measured."""


@dataclass(frozen=True)
class Peer:
    """One who takes part.

    Attributes:
        name: in tables.
        runs: what is measured.
        search: "package.module:function" that finds its engine; "" where there is nothing to find.
        args: of the search, from the setting.
        speed_alone: whether it takes part where accuracy does not count.
        batch: at which it classifies the test samples; all are timed at batch 1.
    """

    name: str
    runs: Runs
    search: str = ""
    args: Callable[[Setting], Mapping[str, Any]] = field(default=lambda _: {})
    speed_alone: bool = True
    batch: int = 1


def _eager(name: str, setting: Setting, _: Found) -> Subject:
    return float_subject(name, setting.trained.eager, setting.threads)


def _compiled(name: str, setting: Setting, _: Found) -> Subject:
    files, args = setting.trained.eager.to_files(), {"threads": setting.threads}
    return Subject(name, "contest.runners:torch_compiled", files, args)


def _openvino(precision: str | None) -> Runs:
    def subject(name: str, setting: Setting, found: Found) -> Subject:
        files = found.files or {MODEL: setting.trained.model.onnx.proto}
        args = {"threads": setting.threads, "precision": precision}
        return Subject(name, "contest.runners:openvino", files, args)

    return subject


def _onnxruntime(name: str, setting: Setting, found: Found) -> Subject:
    return engine_subject(name, "onnxruntime", found.files[MODEL], setting.request)


def _rtc(name: str, setting: Setting, found: Found) -> Subject:
    request = BuildRequest(
        loader.profile("cpu"), tuple(found.facts["batches"]), found.facts["threads"]
    )
    return engine_subject(name, found.facts["backend"], found.files[ENGINE], request)


def _fixed(**args: Any) -> Callable[[Setting], Mapping[str, Any]]:
    return lambda _: args


PEERS = (
    Peer(EAGER, _eager, batch=64),
    Peer("torch.compile", _compiled),
    Peer("openvino fp32", _openvino("f32")),
    Peer("openvino bf16", _openvino("bf16")),
    *(
        Peer(
            f"ort {shown}",
            _onnxruntime,
            "contest.onnxruntime_static:quantise",
            _fixed(method=method),
        )
        for shown, method in onnxruntime_static.METHODS.items()
    ),
    *(
        Peer(
            f"nncf {preset}",
            _openvino(None),
            "contest.nncf_static:quantise",
            _fixed(preset=preset),
        )
        for preset in ("performance", "mixed")
    ),
    Peer(
        "nncf accuracy-control",
        _openvino(None),
        "contest.nncf_static:quantise_with_accuracy_control",
        lambda setting: {"drop": setting.entrant.drop},
        speed_alone=False,
    ),
    Peer(
        RTC,
        _rtc,
        "contest.rtc_compile:search",
        lambda setting: {"recipe": str(setting.recipe)},
    ),
)
