"""Open a folder with a Hugging Face checkpoint: its configuration, its shards, its small files.

Never unpickles and never runs code of a repository. Knows no model family.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from edgeapp.errors import ModelNotFound, ModelUnreadable
from edgeapp_converters.checkpoint_config import read_config, require_readable
from edgeapp_converters.checkpoint_index import INDEX, choose_shards, merge_tensors, parse_index
from edgeapp_converters.safetensors import read_header
from edgeapp_converters.shards import LocalSource, stamp_of
from edgeapp_converters.small_files import (
    open_inside,
    read_small_file,
    shown_path,
    small_files,
    snapshot_repository,
)

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp_converters.shards import Stamp
    from edgeapp_converters.source import SourceTensor, TensorSource

__all__ = ["Checkpoint", "open_folder", "read_small_file"]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint whose headers have been read and checked."""

    name: str
    config: dict[str, Any]
    folder: Path
    """Holds the configuration and the tokenizer's files."""
    source: TensorSource


def open_folder(folder: Path) -> Checkpoint:
    """Open the checkpoint in `folder`.

    Raise `ModelNotFound` when there is none, `ModelUnreadable` when the operating system refuses,
    `InvalidCheckpoint` for damage, missing shards and files that lead out of the folder, and
    `UnsupportedCheckpoint` for pickles and for quantisations that cannot be read.
    """
    names = _names(folder)
    index = parse_index(read_small_file(folder, INDEX)) if INDEX in names else {}
    shards = choose_shards(names, index, shown=shown_path(folder))
    config = read_config(folder)
    require_readable(config)
    headers = {shard: read_shard_header(folder, shard) for shard in shards}
    tensors = merge_tensors((tensor for header, _ in headers.values() for tensor in header.values()), index)
    source = LocalSource(
        partial(open_inside, folder),
        stamps={shard: stamp for shard, (_, stamp) in headers.items()},
        tensors=tensors,
        other_sha256s={name: _sha256(read_small_file(folder, name)) for name in small_files(folder)},
    )
    return Checkpoint(name=_name_of(folder), config=config, folder=folder, source=source)


def read_shard_header(folder: Path, shard: str) -> tuple[dict[str, SourceTensor], Stamp]:
    """Return the tensors of `shard` in `folder`, and the state of the file before they were read.

    Raise the errors of `open_inside` and `read_header`.
    """
    fd = open_inside(folder, shard)
    try:
        stamp = stamp_of(fd)
        return read_header(fd, shard=shard), stamp
    finally:
        os.close(fd)


def _names(folder: Path) -> set[str]:
    try:
        return {entry.name for entry in os.scandir(folder)}
    except (FileNotFoundError, NotADirectoryError, ValueError) as problem:
        raise ModelNotFound(f"There is no folder {shown_path(folder)}.", hint="Check the path.") from problem
    except OSError as problem:
        raise ModelUnreadable(f"{shown_path(folder)} cannot be read: {problem.strerror}.") from problem


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _name_of(folder: Path) -> str:
    """The folder's name; in the Hugging Face cache, where that is a commit, the repository's."""
    repository = snapshot_repository(folder)
    return folder.resolve().name if repository is None else repository.name.rpartition("--")[2]
