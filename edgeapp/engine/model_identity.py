"""Tell whether a model is the one that a saved state was computed with, without reading all of it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, BinaryIO

from edgeapp.engine.bindings import BINDING_VERSION

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp.gguf_info.header import Header

_N_SAMPLES, _SAMPLE_BYTES = 16, 64 << 10


def model_key(path: Path, *, kv_type: str, n_expert_used: int) -> str:
    """Return a text that changes with everything about the model that its keys and values depend on.

    That is the whole header (architecture, vocabulary, tensor types), size and modification time of each
    file of the model, 16 blocks of 64 KiB spread over its weights, the engine's version, the KV type and the
    number of active experts. A fine-tune differs in every block, an edit in place in the time, so only a file
    that was forged to pass would. Raise what `read_parts` does, or `OSError`.
    """
    # Parsing headers is not part of a plain chat.
    from edgeapp.gguf_info.parts import read_parts

    digest = hashlib.sha256()
    for part in read_parts(path):
        _add_part(digest, part)
    return f"{digest.hexdigest()} llama-cpp-python-{BINDING_VERSION} {kv_type} experts-{n_expert_used}"


def _add_part(digest: hashlib._Hash, part: Header) -> None:
    facts = part.path.stat()
    digest.update(f"{facts.st_size} {facts.st_mtime_ns} ".encode())
    with part.path.open("rb") as file:
        digest.update(file.read(part.data_offset_bytes))
        for sample in _samples(file, part.data_offset_bytes, facts.st_size):
            digest.update(sample)


def _samples(file: BinaryIO, start: int, end: int) -> list[bytes]:
    """Read blocks at equal distances, the last one at the very end."""
    room = max(end - start - _SAMPLE_BYTES, 0)
    samples = []
    for index in range(_N_SAMPLES):
        file.seek(start + room * index // (_N_SAMPLES - 1))
        samples.append(file.read(_SAMPLE_BYTES))
    return samples
