"""The KV cache of one sequence, and the tokens that are in it. Knows no prompt and no answer.

The cache stays consistent with `prefix.tokens` however a decode ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.engine import bindings
from edgeapp.engine.prefix import Prefix
from edgeapp.errors import ContextOverflow

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgeapp.engine.model import LoadedModel


class Cancelled(Exception):
    """The request that was decoding has been cancelled."""


class CachedSequence:
    """Owns sequence 0 of the model's context. `is_cancelled` is asked between decodes."""

    def __init__(self, model: LoadedModel, *, is_cancelled: Callable[[int], bool]) -> None:
        self._model = model
        self._is_cancelled = is_cancelled
        self.prefix = Prefix()

    def keep(self, n_keep: int) -> int:
        """Cut the KV cache to `n_keep` tokens; a model that cannot forget a part forgets everything."""
        if not bindings.kv_truncate(self._model.context, n_keep):
            bindings.kv_clear(self._model.context)
            n_keep = 0
        self.prefix.truncate(n_keep)
        return n_keep

    def feed(self, request_id: int, tokens: Sequence[int], *, n_logits: int) -> None:
        """Decode `tokens` behind what is cached, with logits of the last `n_logits`.

        Raise `Cancelled` with the cache consistent, or `ContextOverflow`.
        """
        while True:
            if self._is_cancelled(request_id):
                raise Cancelled
            n_past = len(self.prefix.tokens)
            match self._model.batch.decode(self._model.context, tokens, n_past=n_past, n_logits=n_logits):
                case "ok":
                    self.prefix.tokens.extend(tokens)
                    return
                case "aborted":
                    # Either this request was cancelled, or a cancel arrived just after its own request.
                    self._model.abort.clear()
                    self._undo(request_id, n_past)
                case "no_slot":
                    raise ContextOverflow(
                        f"The context of {self._model.n_ctx} tokens is full.", hint=self.more_room()
                    )

    def forget(self) -> None:
        bindings.kv_clear(self._model.context)
        self.prefix.clear()

    def more_room(self) -> str:
        n_ctx, most = self._model.n_ctx, self._model.n_ctx_train
        return (
            f"Start a new chat, or use a larger --ctx, up to {most}." if n_ctx < most else "Start a new chat."
        )

    def _undo(self, request_id: int, n_past: int) -> None:
        """Take an aborted decode out of the cache, of which it may have written a part."""
        known, rendered = list(self.prefix.tokens), self.prefix.rendered
        if self.keep(n_past) < n_past:
            self._feed_again(request_id, known)
            self.prefix.rendered = rendered

    def _feed_again(self, request_id: int, tokens: Sequence[int]) -> None:
        """Compute what a model that cannot forget a part had to forget as a whole."""
        step = self._model.n_batch
        for start in range(0, len(tokens), step):
            self.feed(request_id, tokens[start : start + step], n_logits=0)
