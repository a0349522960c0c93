"""The whole context for one sequence of given tokens: what measurements decode. Knows no prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.engine.prefix import common_length
from edgeapp.errors import ContextOverflow

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgeapp.engine.kv import KvCache
    from edgeapp.engine.model import LoadedModel


class Cancelled(Exception):
    """The request that was decoding has been cancelled."""


class Solo:
    """Uses sequence 0, while nobody answers. `is_cancelled` is asked between decodes."""

    def __init__(self, model: LoadedModel, kv: KvCache, *, is_cancelled: Callable[[int], bool]) -> None:
        self._model = model
        self._kv = kv
        self._is_cancelled = is_cancelled
        self._sequence = kv.sequences[0]

    def common(self, tokens: Sequence[int]) -> int:
        """Return how many leading tokens are in the KV cache already."""
        if self._sequence.key:  # computed with adapters
            return 0
        return common_length(self._sequence.tokens, list(tokens))

    def keep(self, n_keep: int) -> int:
        """Forget all other sequences, and what lies behind `n_keep` tokens; return how many are left."""
        for other in self._kv.sequences[1:]:
            self._kv.forget(other)
        if self._sequence.key:
            self._kv.forget(self._sequence)
            self._sequence.key = ""
        return self._kv.truncate(self._sequence, n_keep)

    def feed(self, request_id: int, tokens: Sequence[int], *, n_logits: int) -> None:
        """Decode `tokens` behind what is there, with logits of the last `n_logits`.

        Raise `Cancelled` with the cache consistent, or `ContextOverflow`.
        """
        batch = self._model.batch
        while True:
            if self._is_cancelled(request_id):
                raise Cancelled
            batch.clear()
            batch.add(tokens, sequence=0, n_past=len(self._sequence.tokens), n_logits=n_logits)
            match batch.decode(self._model.context):
                case "ok":
                    self._sequence.rendered = b""
                    self._kv.append(self._sequence, tokens)
                    return
                case "aborted":
                    # Either this request was cancelled, or a cancel arrived just after its own request.
                    self._model.abort.clear()
                    self._kv.truncate(self._sequence, len(self._sequence.tokens))
                case "no_slot":
                    raise ContextOverflow(
                        f"The context of {self._model.n_kv} tokens is full.", n_ctx=self._model.n_ctx
                    )

    def forget(self) -> None:
        self._kv.forget(self._sequence)
