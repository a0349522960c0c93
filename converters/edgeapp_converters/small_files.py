"""The files beside a checkpoint's weights: which ones matter, and how one is opened without being led astray.

Knows names and sizes, not what is in a file.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

from edgeapp.cleantext import clean_line
from edgeapp.errors import InvalidCheckpoint, ModelUnreadable

if TYPE_CHECKING:
    from pathlib import Path

MAX_SMALL_FILE_BYTES = 100_000_000
_NAMES = re.compile(
    r"(?:config|generation_config|params|processor_config|preprocessor_config"
    r"|tokenizer[\w.-]*|special_tokens_map|added_tokens|vocab|chat_template)\.json"
    r"|model\.safetensors\.index\.json"
    r"|tokenizer\.model(?:\.v\d+)?|tekken\.json|merges\.txt|vocab\.txt"
    r"|(?:additional_chat_templates/)?[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}\.jinja2?"
    r"|README\.md",
    re.ASCII,
)
_TEMPLATES = "additional_chat_templates"
_HUB_FOLDER = re.compile(r"models--[^/]+")


def is_small_file(name: str) -> bool:
    """Tell whether `name`, relative to the checkpoint, may decide metadata, tokenizer or templates."""
    return _NAMES.fullmatch(name) is not None


def small_files(folder: Path) -> tuple[str, ...]:
    """Return the names of the files in `folder` that may decide metadata and tokenizer, sorted."""
    found = [path.relative_to(folder).as_posix() for path in folder.glob("*")]
    found += [path.relative_to(folder).as_posix() for path in folder.glob(f"{_TEMPLATES}/*")]
    return tuple(sorted(name for name in found if is_small_file(name)))


def read_small_file(folder: Path, name: str, *, max_bytes: int = MAX_SMALL_FILE_BYTES) -> bytes:
    """Return the content of a file beside the weights.

    Raise `InvalidCheckpoint` when it is missing, too long, a link out of the folder or no regular file, and
    `ModelUnreadable` when the operating system refuses.
    """
    shown = clean_line(name, max_chars=80)
    with open(open_inside(folder, name), "rb") as file:
        try:
            data = file.read(max_bytes + 1)
        except OSError as problem:
            raise ModelUnreadable(f"{shown} cannot be read: {problem.strerror}.") from problem
    if len(data) > max_bytes:
        raise InvalidCheckpoint(
            f"{shown} has more than {max_bytes} bytes, which such a file never needs.",
            hint="It is not what its name says; get the checkpoint again.",
        )
    return data


def open_inside(folder: Path, name: str) -> int:
    """Open `name` in `folder` for reading and return the descriptor.

    Links may only lead to a place in the folder. One exception: in a snapshot of the Hugging Face cache
    (`models--org--name/snapshots/<commit>`) every file is a link into `blobs` of the same repository, and
    such links are followed. Raise `InvalidCheckpoint` for other links, for what is missing and for what is
    not a regular file, `ModelUnreadable` when the operating system refuses.
    """
    path = folder / name
    _refuse_escape(folder, path)
    try:
        # O_NONBLOCK: a FIFO without a writer would otherwise block for ever.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as problem:
        raise InvalidCheckpoint(
            f"{shown_path(folder)} has no {clean_line(name, max_chars=80)}.",
            hint="Is this a whole checkpoint?",
        ) from problem
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "its name is impossible"
        raise ModelUnreadable(f"{shown_path(path)} cannot be read: {reason}.") from problem
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise InvalidCheckpoint(
            f"{shown_path(path)} is not a regular file.", hint="Put the file itself there."
        )
    return fd


def snapshot_repository(folder: Path) -> Path | None:
    """Return the repository's folder in the Hugging Face cache when `folder` is a snapshot in it.

    Layout: `models--org--name/{blobs,refs,snapshots/<commit>}` (huggingface_hub, "Understand caching").
    """
    root = folder.resolve()
    repository = root.parent.parent
    is_snapshot = root.parent.name == "snapshots" and _HUB_FOLDER.fullmatch(repository.name) is not None
    return repository if is_snapshot else None


def shown_path(path: Path) -> str:
    """Return a path that is safe to show."""
    return clean_line(str(path), max_chars=300)


def _refuse_escape(folder: Path, path: Path) -> None:
    try:
        root, target = folder.resolve(), path.resolve()
    except (OSError, RuntimeError, ValueError) as problem:  # a circle of links is a RuntimeError up to 3.12
        raise InvalidCheckpoint(
            f"{shown_path(path)} cannot be followed: it is a link in a circle or an impossible name."
        ) from problem
    repository = snapshot_repository(folder)
    allowed = (root,) if repository is None else (root, repository / "blobs")
    if not any(target.is_relative_to(place) for place in allowed):
        raise InvalidCheckpoint(
            f"{shown_path(path)} is a link that leads out of the folder.", hint="Put the file itself there."
        )
