"""An engine built from a graph: in this process, which is a child, and as files from there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from rtc.compiler.core.errors import BuilderError, ModelError
from rtc.compiler.core.hashing import canonical
from rtc.compiler.core.target import Backend, BuildRequest, Built, Runner
from rtc.compiler.documents.build_json import BUILT_LAYERS, REQUEST
from rtc.compiler.measure import fidelity


def build_here(files: Mapping[str, bytes], args: Mapping[str, Any]) -> dict[str, bytes]:
    """Build in this process, which is a child: `graph.onnx` in, `built_to_files` out.

    With a `probe.npz` the engine is held against it at the request's batches.
    """
    from rtc.targets.loader import backend

    runtime, request = backend(args["backend"]), REQUEST.validate_python(args["request"])
    if fidelity.FILE not in files:
        return built_to_files(runtime.build(files["graph.onnx"], request))
    known = fidelity.unpacked(files[fidelity.FILE])
    built, runner = held(runtime, files["graph.onnx"], request, known)
    runner.close()
    return built_to_files(built)


def held(
    runtime: Backend, graph: bytes, request: BuildRequest, known: fidelity.Probe
) -> tuple[Built, Runner]:
    """An engine and its runner, right at every batch of the request; to be closed.

    Raises:
        RtcError: as `Backend.build_and_load` and `fidelity.settle`.
    """
    built, runner = runtime.build_and_load(graph, request)
    try:
        best = request.batches[1]
        forms = fidelity.settled(runner, known, request.batches)
        if forms[best] != runner.forms(best)[0]:  # its layers are others
            runner.close()
            built, runner = runtime.build_and_load(graph, replace(request, forms=forms))
    except BaseException:
        runner.close()
        raise
    return replace(built, forms=forms), runner


_OF_THE_GRAPH = frozenset({"crashed", "engine-differs", "runtime-refuses"})
"""Errors, by id, that another graph which computes the same may not meet."""


def built_by_outcome(runtime: Backend, graph: bytes, build: Callable[[bytes], Built]) -> Built:
    """What `build` makes of a graph; where that fails, of one of `Backend.instead`, with a note.

    Raises:
        RtcError: as `build` on the graph itself.
    """
    try:
        return build(graph)
    except (BuilderError, ModelError) as error:
        if error.id not in _OF_THE_GRAPH:
            raise
        for other, words in runtime.instead(graph):
            with suppress(BuilderError, ModelError):
                built = build(other)
                note = f"{error.what}, so it was built {words}."
                return replace(built, notes=(*built.notes, note))
        raise


def built_to_files(built: Built) -> dict[str, bytes]:
    """What a builder made, as files: `engine.bin` and `built.json`."""
    head = {
        "layers": BUILT_LAYERS.dump_python(built.layers, mode="json"),
        "runtime": built.runtime,
        "binding": dict(built.binding),
        "forms": sorted(built.forms.items()),
        "notes": built.notes,
    }
    return {"engine.bin": built.engine, "built.json": canonical(head)}


def built_from_files(files: Mapping[str, bytes]) -> Built:
    """The inverse of `built_to_files`."""
    head = json.loads(files["built.json"])
    return Built(
        engine=files["engine.bin"],
        layers=BUILT_LAYERS.validate_python(head["layers"]),
        runtime=head["runtime"],
        binding=head["binding"],
        forms=dict(head["forms"]),
        notes=tuple(head["notes"]),
    )
