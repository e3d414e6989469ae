"""What the file system says of files, to tell without reading them that they are as they were."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

Stamp = tuple[int, int, int, int, int]
"""Size, times of the last change of content and of anything (ns), inode, and device."""

_SETTLED_NS = 3_000_000_000  # a file system may keep times to two seconds


def stamps(paths: Iterable[Path], since_ns: int | None = None) -> dict[str, Stamp] | None:
    """A stamp of each file; None where one is missing, or so new that a change might not show.

    `since_ns`: when a reading of the files began, which none has changed after; now, if not given.
    The time of any change is the kernel's own: nobody sets it back, as copying tools do with the
    other. What is written through a mapping may show late.
    """
    begun = time.time_ns() if since_ns is None else since_ns
    seen = {}
    for path in paths:
        try:
            stat = path.stat()
        except OSError:
            return None
        if begun - max(stat.st_mtime_ns, stat.st_ctime_ns) < _SETTLED_NS:
            return None
        seen[str(path.absolute())] = (
            stat.st_size,
            stat.st_mtime_ns,
            stat.st_ctime_ns,
            stat.st_ino,
            stat.st_dev,
        )
    return seen
