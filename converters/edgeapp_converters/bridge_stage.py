"""Builds the folder that llama.cpp's converter sees: files that were checked, and nothing else.

No Python code, no pickles, no links but those to the shards. Knows no converter and no family.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from edgeapp.errors import UnsupportedCheckpoint
from edgeapp_converters.checkpoint import read_small_file
from edgeapp_converters.checkpoint_index import INDEX
from edgeapp_converters.events import Warned
from edgeapp_converters.safetensors import parse_object
from edgeapp_converters.small_files import small_files

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp_converters.checkpoint import Checkpoint
    from edgeapp_converters.events import Report

_WITH_CODE = ("config.json", "tokenizer_config.json")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")


def has_tokenizer(folder: Path) -> bool:
    """Tell whether the tokenizer is data, which can be read without running anything."""
    return any((folder / name).is_file() for name in _TOKENIZERS)


def stage(checkpoint: Checkpoint, scratch: Path, *, report: Report) -> Path:
    """Return a folder in `scratch` with copies of the small files and links to the shards of `checkpoint`.

    Raise `UnsupportedCheckpoint` when the tokenizer is code, and the errors of `read_small_file`.
    """
    shutil.rmtree(scratch / "staged", ignore_errors=True)
    folder = scratch / "staged" / checkpoint.name  # from which llama.cpp takes basename and size label
    folder.mkdir(parents=True)
    for name in small_files(checkpoint.folder):
        data = read_small_file(checkpoint.folder, name)
        if name in _WITH_CODE:
            data = _without_code(checkpoint.folder, name, data, report=report)
        if name != INDEX:  # has been compared with the shards already
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
    shards = checkpoint.source.shards
    for number, shard in enumerate(shards, start=1):
        link = folder / f"model-{number:05}-of-{len(shards):05}.safetensors"  # names that it looks for
        link.symlink_to((checkpoint.folder / shard).resolve())
    return folder


def _without_code(folder: Path, name: str, data: bytes, *, report: Report) -> bytes:
    """Take out which Python classes of the repository should be loaded."""
    settings: dict[str, Any] = parse_object(data, what=name)
    if settings.pop("auto_map", None) is None:
        return data
    if name != "config.json" and not has_tokenizer(folder):
        raise UnsupportedCheckpoint(
            "The checkpoint's tokenizer is Python code of its own, which is never run.",
            hint="Look for a copy with tokenizer.json or tokenizer.model.",
        )
    report(Warned(message=f"{name} names Python code of the checkpoint, which is not run."))
    return json.dumps(settings).encode()
