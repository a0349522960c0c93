"""Write a file so that a reader, or a power cut, sees the old content or the new, never half of it.

Knows nothing of what is written: bytes go to `*.part`, are flushed to the disk, and take the final name.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from edgeapp import paths

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, creating its folder. A symbolic link is followed, not replaced."""
    target = path.resolve()
    paths.make_private(target.parent)
    part = target.with_name(target.name + ".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    move(part, target)


def move(source: Path, target: Path) -> None:
    """Give `source`, whose content is on the disk already, the name `target` for good."""
    source.replace(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make names created, renamed or removed in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
