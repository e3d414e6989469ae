"""Devices and runtimes by name. Nothing heavy is imported until a backend's method needs it.

A package adds a runtime by an entry point in the group `rtc.backends`; a profile may also name a
backend's class itself, as "module:Class".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from rtc.compiler.core.doors import Door
from rtc.compiler.core.errors import MachineError, RecipeError, first_line
from rtc.compiler.core.naming import FOLDER_NAME, nearest
from rtc.compiler.core.target import Availability, Backend, DeviceProfile

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from rtc.compiler.documents.strict_yaml import Document

BACKENDS = Door(
    "rtc.backends",
    # mypy asks for a class that can be made; what others are made from is abstract.
    Backend,  # type: ignore[type-abstract]
    "backend",
    {
        "onnxruntime": "rtc.targets.backends.onnxruntime:OnnxRuntime",
        "openvino": "rtc.targets.backends.openvino:OpenVino",
        "tensorrt_rtx": "rtc.targets.backends.tensorrt_rtx:TensorRTRTX",
    },
)
"""Runtimes that engines are built for, by the name that profiles use."""

ABSENT: Mapping[str, str] = MappingProxyType(
    {"tensorrt": "rtc has no backend for full TensorRT yet"},
)
"""Runtimes that profiles may name because the device needs them, and why none can be built."""

_HERE = Path()


@dataclass(frozen=True)
class RuntimeRow:
    """One runtime of one target: can it build here, can what it builds run here."""

    backend: str
    builds: Availability
    runs: Availability


@dataclass(frozen=True)
class TargetRow:
    """One target of a survey, with every runtime that its profile names, in order."""

    profile: DeviceProfile
    runtimes: tuple[RuntimeRow, ...]

    @property
    def buildable(self) -> bool:
        """Whether a runtime here builds for it."""
        return any(runtime.builds.ok for runtime in self.runtimes)

    @property
    def runnable(self) -> bool:
        """Whether a runtime here runs on it."""
        return any(runtime.runs.ok for runtime in self.runtimes)


def profile(name: str, beside: Path = _HERE) -> DeviceProfile:
    """The device of that name, or of the profile file at that path (`*.yaml`).

    Args:
        name: a device, or a file.
        beside: the folder that a relative path starts from.

    Raises:
        RecipeError: no such device ("unknown-target"), or a file that is not a profile.
    """
    if name.endswith((".yaml", ".yml")):
        return _read(beside / name)
    known = profiles()
    if name not in known:
        raise RecipeError(
            f"there is no target {name!r}", fix=nearest(name, known), id="unknown-target"
        )
    return known[name]


@cache
def profiles() -> Mapping[str, DeviceProfile]:
    """Every device that rtc ships a profile of, by name."""
    folder = Path(str(resources.files("rtc.targets.profiles")))
    by_name = {path.stem: _read(path) for path in sorted(folder.glob("*.yaml"))}
    return MappingProxyType(by_name)


def profile_text(profile: DeviceProfile) -> bytes:
    """A device as the content of a profile file; `parse_profile` reads it back."""
    import yaml

    fields = _profiles().dump_python(profile, mode="json", exclude_none=True)
    text: str = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)
    return text.encode()


def parse_profile(content: bytes, where: str) -> DeviceProfile:
    """The device that a profile file's content tells of; `where` names the file in errors.

    Raises:
        RecipeError: it is not a profile.
    """
    from rtc.compiler.documents import strict_yaml

    return _checked(strict_yaml.parse(content, where))


def backend(name: str) -> Backend:
    """The backend of that name, or of the class "module:Class"; it is called as it was asked for.

    Raises:
        RecipeError: there is none, or what there is does not do what a backend must.
    """
    known = BACKENDS.known()
    if name in ABSENT and name not in known:
        raise RecipeError(ABSENT[name], id="unknown-backend")
    kind = BACKENDS.find(name)
    for attribute in ("extra", "engine_file"):
        if not isinstance(getattr(kind, attribute, None), str):
            raise RecipeError(
                f"the backend {BACKENDS.reference(name)} does not say its {attribute}",
                expected=f"a text {attribute} in the class",
                id="not-a-backend",
            )
    try:
        made = kind()
    except TypeError as cause:
        raise RecipeError(
            f"the backend {BACKENDS.reference(name)} cannot be made",
            seen=first_line(cause),
            expected="a class that takes no arguments",
            id="not-a-backend",
        ) from cause
    made.name = name  # child processes and readers of a bundle find it by this
    return made


def backends_for(profile: DeviceProfile) -> tuple[Backend, ...]:
    """The backends that can build for a device here, in the profile's order.

    One that is not installed is left out as long as another is; `survey` names it.

    Raises:
        MachineError: none can build here ("missing-extra", with the command that installs one), or
            rtc has no backend for the device ("no-backend").
    """
    rows = [(name, building(name)) for name in profile.backends]
    usable = tuple(backend(name) for name, builds in rows if builds.ok)
    if usable:
        return usable
    where = f"target {profile.name}"
    for _, builds in rows:
        if builds.fix:
            raise MachineError(builds.missing, where=where, fix=builds.fix, id="missing-extra")
    missing = "; ".join(builds.missing for _, builds in rows)
    raise MachineError(missing, where=where, fix=_others(), id="no-backend")


def building(name: str) -> Availability:
    """Whether engines of that runtime can be built here."""
    return (
        Availability(ok=False, missing=ABSENT[name]) if _absent(name) else backend(name).available()
    )


def survey() -> tuple[TargetRow, ...]:
    """Every target with what builds for it and runs it here; no runtime is imported for it."""
    return tuple(
        TargetRow(device, tuple(_runtime(name, device) for name in device.backends))
        for device in profiles().values()
    )


def _runtime(name: str, device: DeviceProfile) -> RuntimeRow:
    builds = building(name)
    runs = builds if _absent(name) else backend(name).runnable(device)
    return RuntimeRow(name, builds, runs)


def _absent(name: str) -> bool:
    """Whether a runtime is known and nobody has a backend for it."""
    return name in ABSENT and name not in BACKENDS.known()


def _others() -> str:
    names = [row.profile.name for row in survey() if row.buildable]
    return f"targets that can be built here: {', '.join(names)}"


def _read(path: Path) -> DeviceProfile:
    from rtc.compiler.documents import strict_yaml

    return _checked(strict_yaml.read(path))


@cache
def _profiles() -> TypeAdapter[DeviceProfile]:
    from pydantic import TypeAdapter

    return TypeAdapter(DeviceProfile)


def _checked(document: Document) -> DeviceProfile:
    from rtc.compiler.documents.validation import validated

    device = validated(_profiles(), document.value, document, ())
    if not re.fullmatch(FOLDER_NAME, device.name):
        raise RecipeError(
            "this name cannot name a folder",
            where=document.where(("name",)),
            seen=repr(device.name),
            expected="letters and digits, with single dots, dashes or underscores between them",
            id="device-name",
        )
    for index, name in enumerate(device.backends):
        if not _absent(name):
            try:
                BACKENDS.reference(name)
            except RecipeError as error:
                error.where = error.where or document.where(("backends", index))
                raise
    return device
