"""Digests: canonical JSON and SHA-256, the same under every locale, time zone and hash seed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from rtc.compiler.core.stamps import Stamp, stamps

_known: dict[str, tuple[dict[str, Stamp], str]] = {}
"""Digests of files' content, and the stamps that the files had."""


def canonical(value: object) -> bytes:
    """JSON with sorted keys and no spaces; NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest(value: object) -> str:
    """The "sha256:…" of a JSON value, or of bytes as they are."""
    content = value if isinstance(value, bytes) else canonical(value)
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def file_digest(path: Path) -> str:
    """The "sha256:…" of a file's content, read in blocks; once while the file is as it was."""
    before = stamps([path])
    known = _known.get(str(path.absolute()))
    if before is not None and known is not None and known[0] == before:
        return known[1]
    total = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            total.update(block)
    found = f"sha256:{total.hexdigest()}"
    if before is not None and stamps([path]) == before:
        _known[str(path.absolute())] = before, found
    return found
