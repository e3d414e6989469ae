"""What is asked of a builder, and what it tells of its layers, as JSON and back."""

from __future__ import annotations

from pydantic import TypeAdapter

from rtc.compiler.core.target import BuildRequest, BuiltLayer

REQUEST: TypeAdapter[BuildRequest] = TypeAdapter(BuildRequest)
BUILT_LAYERS: TypeAdapter[tuple[BuiltLayer, ...]] = TypeAdapter(tuple[BuiltLayer, ...])
