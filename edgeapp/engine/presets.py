"""Preset prefixes: what a preset begins every conversation with is computed once, and kept on disk."""

from __future__ import annotations

import threading
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from edgeapp.engine import prompts
from edgeapp.engine.prefix import common_length
from edgeapp.protocol import Message

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeapp.engine.kv import KvCache
    from edgeapp.engine.model import LoadedModel
    from edgeapp.engine.prefix_disk import PrefixDisk
    from edgeapp.engine.prefix_store import SavedSequence
    from edgeapp.engine.sequence import Sequence
    from edgeapp.protocol import Generate

MIN_TOKENS = 32
"""A shorter prefix is computed faster than it is read."""
_MAX_KNOWN = 256


class PresetPrefixes:
    """Finds and keeps them on the disk that `open_disk` returns; without one there are none.

    It is opened for the first conversation with a preset: that reads parts of the model.
    """

    def __init__(self, model: LoadedModel, kv: KvCache, open_disk: Callable[[], PrefixDisk | None]) -> None:
        self._model = model
        self._kv = kv
        self._open_disk = open_disk
        self._lengths: dict[bytes, int] = {}

    @cached_property
    def _disk(self) -> PrefixDisk | None:
        return self._open_disk()

    def length(self, request: Generate, tokens: list[int]) -> int:
        """Return how many leading `tokens` come from the preset's messages, whatever the user writes.

        0 means none that are worth keeping.
        """
        n_messages = request.n_prefix_messages
        if not 0 < n_messages < len(request.messages) or self._disk is None:
            return 0
        mark = msgspec.json.encode((request.messages[:n_messages], request.tools, request.template_options))
        if mark not in self._lengths:
            if len(self._lengths) >= _MAX_KNOWN:
                self._lengths.clear()
            self._lengths[mark] = self._measured(request, tokens)
        n_tokens = self._lengths[mark]
        return n_tokens if MIN_TOKENS <= n_tokens < len(tokens) else 0

    def _measured(self, request: Generate, tokens: list[int]) -> int:
        """Compare with the prompt of a conversation that goes on differently behind the same beginning."""
        first, *_ = request.messages[request.n_prefix_messages :]
        other = Message(role=first.role, content="0" if first.content[:1] != "0" else "1")
        messages = (*request.messages[: request.n_prefix_messages], other)
        text = prompts.render(self._model, msgspec.structs.replace(request, messages=messages))
        return common_length(self._model.vocab.tokenize_prompt(text, is_start=True), tokens)

    def find(self, key: str, tokens: list[int]) -> SavedSequence | None:
        """Return the saved prefix `tokens`, if there is one."""
        return self._disk.load(key, tokens) if tokens and self._disk else None

    def discard(self, saved: SavedSequence) -> None:
        """Delete a prefix that llama.cpp refused."""
        if self._disk is not None:
            self._disk.discard(saved)

    def keep(self, sequence: Sequence) -> None:
        """Save the sequence, which has come to the end of its prefix."""
        self._kv.checkpoint(sequence)
        if self._disk is not None:
            # Hashing and waiting for the disk would hold everybody up.
            saved = self._kv.saved(sequence)
            threading.Thread(target=self._disk.save, args=(saved,)).start()
