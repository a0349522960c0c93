"""What a conversion does with a repository, for a process of its own.

huggingface_hub reads HF_ENDPOINT and HF_HUB_OFFLINE when it is imported, so the tests' process cannot.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeapp.errors import EdgeappError
from edgeapp_converters.events import ConversionEvent, StageProgress
from edgeapp_converters.hub_source import open_hub

if TYPE_CHECKING:
    from edgeapp.references import HubRef
    from edgeapp_converters.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Visit:
    """What came of it."""

    name: str = ""
    fingerprint: str = ""
    sha256: str = ""
    folder: Path = Path()
    shards: tuple[str, ...] = ()
    tensors: dict[str, str]
    """Hash of each tensor that was read, by name."""
    stages: tuple[StageProgress, ...] = ()
    error: str = ""
    message: str = ""
    hint: str = ""


def visit(
    environment: dict[str, str],
    ref: HubRef,
    *,
    keep_shards: bool = True,
    offline: bool = False,
    read: bool = True,
    release_unread: bool = False,
) -> Visit:
    """Open `ref` in the environment and, with `read`, read all its tensors, shard by shard.

    With `release_unread` every shard is given back first, as a run does that goes on behind one.
    """
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "EDGEAPP_HOME"):
        os.environ.pop(name, None)
    os.environ.update(environment)
    events: list[ConversionEvent] = []
    tensors: dict[str, str] = {}
    try:
        checkpoint = open_hub(ref, offline=offline, keep_shards=keep_shards, report=events.append)
        if release_unread:
            for shard in checkpoint.source.shards:
                checkpoint.source.release(shard)
        if read:
            _read_all(checkpoint, tensors)
    except EdgeappError as problem:
        return Visit(
            tensors=tensors,
            error=type(problem).__name__,
            message=problem.message,
            hint=problem.hint,
            stages=_stages(events),
        )
    return Visit(
        name=checkpoint.name,
        fingerprint=checkpoint.source.fingerprint,
        sha256=checkpoint.source.sha256(),
        folder=checkpoint.folder,
        shards=checkpoint.source.shards,
        tensors=tensors,
        stages=_stages(events),
    )


def _stages(events: list[ConversionEvent]) -> tuple[StageProgress, ...]:
    return tuple(event for event in events if isinstance(event, StageProgress))


def _read_all(checkpoint: Checkpoint, tensors: dict[str, str]) -> None:
    source = checkpoint.source
    try:
        for shard in source.shards:
            source.fetch(shard)
            for tensor in source.tensors.values():
                if tensor.shard == shard:
                    into = bytearray(tensor.n_bytes)
                    source.read(tensor, 0, memoryview(into))
                    tensors[tensor.name] = hashlib.sha256(into).hexdigest()
            source.release(shard)
    finally:
        source.close()
