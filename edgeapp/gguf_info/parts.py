"""Open a model's file, or all files of a split model, and parse their headers.

Knows paths, permissions and the naming of splits (`name-00001-of-00003.gguf`, llama_split_path in
src/llama.cpp). llama.cpp loads a split through its first part; here any part will do.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgeapp.cleantext import clean_line
from edgeapp.errors import InvalidModel, ModelError, ModelNotFound, ModelUnreadable
from edgeapp.gguf_info.parse import parse_header
from edgeapp.gguf_info.reader import DAMAGED

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgeapp.gguf_info.header import Header

_SPLIT_NAME = re.compile(r"(?P<prefix>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_MAX_NAMED = 5  # file names in one error sentence


def read_parts(path: Path) -> tuple[Header, ...]:
    """Return the header of every file of the model, the first part first.

    Raise `ModelNotFound` for a missing file or part, `ModelUnreadable` for a folder, a device or a file that
    may not be read, and the errors of `parse_header`.
    """
    try:
        header = read_header(path)
    except ModelNotFound:
        _explain_missing_part(path)
        raise
    n_parts = header.integer("split.count") or 1
    if n_parts == 1:
        return (header,)
    names = _part_paths(header, n_parts)
    _require_all(names)
    parts = tuple(header if part == path else read_header(part) for part in names)
    _check_parts(parts)
    return parts


def read_header(path: Path) -> Header:
    """Parse the header of this one file, whether or not it is part of a split."""
    with _opened(path) as fd:
        return parse_header(fd, path=path, file_bytes=os.fstat(fd).st_size)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    shown = clean_line(str(path), max_chars=300)
    try:
        # O_NONBLOCK: a FIFO without a writer would otherwise block for ever.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as problem:
        raise _cannot_open(shown, problem) from problem
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise ModelUnreadable(f"{shown} is a folder, not a model file.", hint=_folder_hint(path))
        if not stat.S_ISREG(mode):
            raise ModelUnreadable(
                f"{shown} is not a regular file.", hint="Give the path of a .gguf file on a disk."
            )
        yield fd
    finally:
        os.close(fd)


def _cannot_open(shown: str, problem: OSError | ValueError) -> ModelError:
    if isinstance(problem, PermissionError):
        return ModelUnreadable(
            f"There is no permission to read {shown}.", hint=f"Try: chmod u+r '{shown}', or copy the file."
        )
    if isinstance(problem, FileNotFoundError | NotADirectoryError | ValueError):
        return ModelNotFound(
            f"There is no file {shown}.",
            hint="Check the path; `edgeapp models` lists the models that are here.",
        )
    return ModelUnreadable(
        f"{shown} cannot be opened: {problem.strerror}.", hint="Check the path and the disk."
    )


def _folder_hint(folder: Path) -> str:
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(".gguf"))
    except OSError:
        names = []
    if not names:
        return "Give the path of a .gguf file."
    return "Give one of the files in it: " + _named(names) + "."


def _named(names: list[str]) -> str:
    shown = ", ".join(clean_line(name) for name in names[:_MAX_NAMED])
    more = len(names) - _MAX_NAMED
    return f"{shown} and {more} more" if more > 0 else shown


def _explain_missing_part(path: Path) -> None:
    """Raise a better error when `path` is missing but other parts of its split exist."""
    match = _SPLIT_NAME.fullmatch(path.name)
    if match:
        parts = _sibling_paths(path, match["prefix"], int(match["count"]))
        if any(part.exists() for part in parts):
            _require_all(parts)


def _sibling_paths(path: Path, prefix: str, n_parts: int) -> list[Path]:
    return [path.with_name(f"{prefix}-{i:05d}-of-{n_parts:05d}.gguf") for i in range(1, n_parts + 1)]


def _part_paths(header: Header, n_parts: int) -> list[Path]:
    number = (header.integer("split.no") or 0) + 1
    match = _SPLIT_NAME.fullmatch(header.path.name)
    if not match or int(match["count"]) != n_parts or int(match["number"]) != number:
        raise InvalidModel(
            f"{header.shown} says it is part {number} of {n_parts}, but its name does not.",
            hint=f"Give all parts their names back, like model-{number:05d}-of-{n_parts:05d}.gguf.",
        )
    return _sibling_paths(header.path, match["prefix"], n_parts)


def _require_all(parts: list[Path]) -> None:
    missing = [part.name for part in parts if not part.exists()]
    if missing:
        raise ModelNotFound(
            f"{len(missing)} of the model's {len(parts)} parts are missing: {_named(missing)}.",
            hint=f"Put all parts into {clean_line(str(parts[0].parent), max_chars=300)}.",
        )


def _check_parts(parts: tuple[Header, ...]) -> None:
    for index, part in enumerate(parts):
        if part.integer("split.no") != index or part.integer("split.count") != len(parts):
            raise InvalidModel(
                f"{part.shown} is not part {index + 1} of {len(parts)} as its name says.",
                hint="The parts belong to different models or were renamed; download them again.",
            )
    names = [tensor.name for part in parts for tensor in part.tensors]
    expected = parts[0].integer("split.tensors.count")
    if len(names) != expected:
        raise InvalidModel(
            f"The {len(parts)} parts of {parts[0].shown} hold {len(names)} tensors instead of {expected}.",
            hint="The parts belong to different models; download them again.",
        )
    if len(set(names)) != len(names):
        raise InvalidModel(f"The parts of {parts[0].shown} repeat a tensor.", hint=DAMAGED)
