"""Bundles: an engine with everything that proves it, published whole or not at all.

    <out>/<recipe>/<target>/<version>+<digest>/          a sealed folder with `manifest.json`
    <out>/<recipe>/<target>/<version>+<digest>.failed/   likewise, when a gate failed
    <out>/<recipe>/<target>/<version>+<digest>.2/        the same inputs, compiled afresh
    <out>/<recipe>/<target>/latest                       link to the last one that passed

A name never comes to hold something else: what is compiled afresh is measured afresh, and stands
beside what stood there. A failed bundle has a name of its own, so it can never stand where one that
passed stood, nor where `latest` leads. Nothing in a bundle is used before all of it was verified.
"""

from __future__ import annotations

import functools
import html
import json
import os
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtc.compiler.core.data import Preprocess
from rtc.compiler.core.errors import IntegrityError, InternalError, RecipeError
from rtc.compiler.core.hashing import canonical
from rtc.compiler.core.outputs import OutputKind
from rtc.compiler.core.progress import Nobody
from rtc.compiler.core.unit import Signature
from rtc.compiler.storage import files as durable
from rtc.compiler.storage import sealed
from rtc.compiler.storage.sealed import FileDigest

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SCHEMA = 1
MANIFEST = "manifest.json"
LATEST = "latest"
PROFILE = "profile.yaml"
"""The device that a bundle was compiled for, which need not be one that this rtc knows."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\+[0-9a-f]{12}(\.[1-9][0-9]{0,5})?")
_FAILED = ".failed"
_TEXTS = (".json", ".yaml", ".html")
_quiet = Nobody().warned
_ELSEWHERE = "choose another folder with --out DIR"


@dataclass(frozen=True)
class EngineEntry:
    """The engine in a bundle, and what it must be loaded with.

    Attributes:
        backend: the name of the backend that built it.
        file: its file in the bundle.
        runtime: the runtime and its version: "onnxruntime 1.31.1".
        binding: what it refuses to run without: {"compute_capability": "8.9"}.
        batches: smallest, best and largest batch.
        threads: CPU threads it was measured with, 0 for the runtime's own choice.
        forms: of each batch that it was held against its graph at, how the runtime computes it.
        held_on: the runtime and processor that it was held on, which tell its kernels; "" nowhere.
    """

    backend: str
    file: str
    runtime: str
    binding: Mapping[str, str]
    batches: tuple[int, int, int]
    threads: int = 0
    forms: Mapping[str, str] = field(default_factory=dict)
    held_on: str = ""


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself, JSON types throughout.

    A field that is at its default may be told or not: manifests from before there was such a field
    are still what they were.

    Attributes:
        name: the recipe's name.
        version: the recipe's version and 12 digits of the digest of all inputs: "1.0.0+0123…cdef",
            with ".2" and so on where they were compiled afresh.
        target: the device profile it was compiled for.
        passed: whether every gate passed.
        preprocess: from raw samples to what the engine takes.
        output: what the engine gives for each class.
        sources: digest by name of what it was made from; names are relative paths.
        versions: version by name of the libraries that made it.
        certificates: the check of each pass.
        gates: each gate, asked and found.
        files: every other file of the bundle; filled in by `publish`.
    """

    name: str
    version: str
    target: str
    passed: bool
    engine: EngineEntry
    signature: Signature
    preprocess: Preprocess = field(default_factory=Preprocess)
    output: OutputKind = OutputKind.LOGITS
    sources: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    certificates: tuple[Mapping[str, Any], ...] = ()
    gates: tuple[Mapping[str, Any], ...] = ()
    files: Mapping[str, FileDigest] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def folder(self) -> str:
        """The name of the bundle's folder."""
        return self.version if self.passed else f"{self.version}{_FAILED}"

    def to_json(self) -> bytes:
        """The content of `manifest.json`."""
        return sealed.render(self.fields())

    def fields(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: bytes, where: str = MANIFEST) -> Manifest:
        """The inverse of `to_json`.

        Raises:
            IntegrityError: changed, with fields that no manifest has, or made by a newer rtc.
        """
        return _manifest(sealed.parse(raw, schema=SCHEMA, where=where), where)


@dataclass(frozen=True)
class Verified:
    """A bundle whose every byte was checked; `files` holds those bytes, without the manifest."""

    path: Path
    manifest: Manifest
    files: Mapping[str, bytes]

    @property
    def engine(self) -> bytes:
        """The engine's file."""
        return self.files[self.manifest.engine.file]


def publish(
    out: Path,
    manifest: Manifest,
    files: Mapping[str, bytes],
    *,
    warn: Callable[[str], None] = _quiet,
) -> Path:
    """Write a bundle, and let `latest` lead to it if it passed; the bundle's folder.

    A bundle of that name that is there already, and whole, stays (the new one's engine and timings
    may differ: builders are not deterministic). A damaged one is moved aside under a hidden name,
    and `warn` is told.

    Raises:
        InternalError: a name, target or version that cannot name a folder; no engine.
        MachineError: the disk refuses; what stood before still stands.
    """
    files = {
        name: _without_home(content) if name.endswith(_TEXTS) else content
        for name, content in files.items()
    }
    head = json.loads(_without_home(canonical(manifest.fields())))
    listed = {name: asdict(entry) for name, entry in sealed.listing(files).items()}
    contents = {**files, MANIFEST: sealed.render({**head, "files": listed})}
    if problem := _unsound(manifest, files):
        raise InternalError(problem, where="bundle", id="bundle-fields")
    home = out / manifest.name / manifest.target
    final = home / manifest.folder
    needed = sum(map(len, files.values()))
    with durable.explained(out, elsewhere=_ELSEWHERE, needed=needed):
        durable.make_folder(home)
        durable.clear_stale(home)
        damage = _damage(final, manifest)
        if damage:
            warn(f"{damage}; moved aside and written again")
        if damage or not final.is_dir():
            _install(final, contents, damaged=bool(damage))
        if manifest.passed:
            durable.point(home / LATEST, final.name)
    return final


def newest(home: Path, version: str) -> str:
    """The last bundle of a version that passed, or the last one, compiles afresh included; or "".

    Found by name: a target's folder is looked at, and no bundle.
    """
    versions = _of_version(home, version)
    passed = {number: name for number, name in versions.items() if (home / name).is_dir()}
    return (passed or versions)[max(passed or versions)] if versions else ""


def afresh(home: Path, version: str) -> str:
    """The name of the next bundle of the same inputs: "1.0.0+0123…cdef.2" after the first."""
    last = max(_of_version(home, version), default=0)
    return f"{version}.{last + 1}" if last else version


def _of_version(home: Path, version: str) -> dict[int, str]:
    """The names of a version's bundles, passed or failed, by their number."""
    with durable.explained(home, elsewhere=_ELSEWHERE):
        names = {path.name.removesuffix(_FAILED) for path in home.glob(f"{version}*")}
    of_version = re.compile(re.escape(version) + r"(?:\.([1-9][0-9]{0,5}))?")
    matches = [match for match in map(of_version.fullmatch, names) if match]
    return {int(match[1] or 1): match.group() for match in matches}


def make_latest(bundle: Verified) -> None:
    """Let `latest` lead to a bundle that was there already, if it passed.

    Whoever published it may have been killed before that, or another was published since.

    Raises:
        MachineError: the disk refuses.
    """
    if bundle.manifest.passed:
        with durable.explained(bundle.path.parent, elsewhere=_ELSEWHERE):
            durable.point(bundle.path.parent / LATEST, bundle.path.name)


def verify(path: Path) -> Verified:
    """Check all of a bundle, and give the very bytes that were checked.

    Args:
        path: a bundle, its `latest` link, or the folder of a target (then its `latest`).

    Raises:
        RecipeError: there is no bundle.
        IntegrityError: not exactly what was published; see `sealed`.
        MachineError: it cannot be read.
    """
    folder = resolve(path)
    with durable.explained(folder, elsewhere="check who may read the bundle"):
        head, files = sealed.read_sealed(folder, MANIFEST, schema=SCHEMA)
    return Verified(folder, _manifest(head, str(folder / MANIFEST)), files)


def resolve(path: Path) -> Path:
    """The bundle folder that a path means: see `verify`. Nothing in it is read.

    Raises:
        RecipeError: there is none.
        IntegrityError: `latest` leads out of its folder.
    """
    with durable.explained(path, elsewhere="check who may read the bundle"):
        if not os.path.lexists(path / MANIFEST) and os.path.lexists(path / LATEST):
            path = path / LATEST
        if path.name == LATEST and path.is_symlink():
            leads_to = path.readlink()
            if leads_to.name != str(leads_to) or leads_to.name in {"..", LATEST}:
                raise sealed.refused("leads out of its folder", path, seen=str(leads_to))
        if not path.is_dir():
            raise RecipeError("no bundle here", where=str(path), fix="`rtc compile` makes one")
        folder = path.resolve()
        if not os.path.lexists(folder / MANIFEST) and (failed := _bundles(folder)):
            raise RecipeError(
                "no bundle here has passed its gates",
                where=str(path),
                seen=", ".join(bundle.name for bundle in failed),
                fix="name one of them, or see its report.html",
            )
    return folder


def list_bundles(out: Path) -> tuple[Path, ...]:
    """The bundle folders under an output folder, passed and failed, by name; none is verified."""
    with durable.explained(out, elsewhere=_ELSEWHERE):
        targets = sorted(path for path in out.glob("*/*") if path.is_dir())
        return tuple(bundle for target in targets for bundle in _bundles(target))


def _bundles(target: Path) -> list[Path]:
    folders = (manifest.parent for manifest in target.glob(f"*/{MANIFEST}"))
    return sorted(path for path in folders if path.name[0] != "." and not path.is_symlink())


def _install(final: Path, contents: Mapping[str, bytes], *, damaged: bool) -> None:
    with durable.drafting(final.parent) as draft:
        durable.write_files(draft, contents)
        durable.settle(draft, final, replace=damaged)
        if damaged and draft.exists():
            draft.rename(draft.with_name(f".damaged-{final.name}-{secrets.token_hex(4)}"))


def _damage(final: Path, manifest: Manifest) -> str:
    """What is wrong with the bundle that has this name already; "" where nothing is, or no bundle.

    Any error but of integrity goes up: a bundle that cannot be read now is not a damaged one.
    """
    try:
        head, _ = sealed.read_sealed(final, MANIFEST, schema=SCHEMA)
        parsed = _manifest(head, str(final / MANIFEST))
    except FileNotFoundError:
        return ""
    except IntegrityError as error:
        return f"{error.where}: {error.what}"
    same = (parsed.name, parsed.target, parsed.folder) == (
        manifest.name,
        manifest.target,
        manifest.folder,
    )
    return "" if same else f"{final}: is another bundle, {parsed.name} {parsed.version}"


def _manifest(head: Mapping[str, Any], where: str) -> Manifest:
    """The manifest in a head whose digest was checked; whoever wrote it may have meant harm."""
    raw = canonical(head)
    try:
        manifest = _adapter().validate_json(raw, strict=True)
    except ValueError as cause:
        raise sealed.refused("is not a manifest", where) from cause
    if not _tells(head, json.loads(canonical(manifest.fields()))):
        raise sealed.refused("has fields that no manifest has", where)
    if problem := _unsound(manifest, manifest.files):
        raise sealed.refused(problem, where)
    return manifest


def _tells(head: object, fields: object) -> bool:
    """Whether a head holds nothing but fields of the manifest that was read from it."""
    if isinstance(head, dict) and isinstance(fields, dict):
        return all(key in fields and _tells(head[key], fields[key]) for key in head)
    if isinstance(head, list) and isinstance(fields, list):
        return len(head) == len(fields) and all(map(_tells, head, fields))
    return canonical(head) == canonical(fields)


@functools.cache
def _adapter() -> TypeAdapter[Manifest]:
    from pydantic import TypeAdapter

    return TypeAdapter(Manifest)


def _unsound(manifest: Manifest, files: Mapping[str, object]) -> str:
    """What makes a manifest unfit to name folders and files, or ""."""
    for what, value, form in (
        ("name", manifest.name, _NAME),
        ("target", manifest.target, _NAME),
        ("version", manifest.version, _VERSION),
    ):
        if not form.fullmatch(value):
            return f"{what} {value[:80]!r} cannot name a folder"
    if manifest.engine.file not in files:
        return f"the engine {manifest.engine.file[:80]!r} is not among the files"
    return ""


def _without_home(content: bytes) -> bytes:
    """Text in which the user's home folder reads "~": a bundle goes to others.

    A home of one level, "/root", is no one's secret, and might as well begin a layer's name.
    """
    home = Path(os.environ.get("HOME", ""))
    if len(home.parts) < 3:
        return content
    plain = str(home)
    written = {plain, json.dumps(plain)[1:-1], html.escape(plain)}  # as JSON and HTML write it
    forms = b"|".join(re.escape(form.encode()) for form in sorted(written))
    return re.sub(rb"(?:%s)(?![\w.\x80-\xff-])" % forms, b"~", content)
