"""Texts to vectors: the hidden states of their tokens, pooled. Knows tokens, no text and no request.

Works in a context of its own, made when the first text comes, so the chat's KV cache stays as it is. The
pooling is done here and not by llama.cpp, which pools within a micro-batch only: a text may be longer.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from edgeapp.engine import bindings
from edgeapp.engine.bindings import Batch, ContextOptions
from edgeapp.errors import ContextOverflow, EngineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from edgeapp.engine.bindings import ContextHandle, KvType, ModelHandle
    from edgeapp.protocol import Pooling

Vectors = tuple[tuple[float, ...], ...]
"""[n_texts, n_embd]"""

MAX_NUMBERS = 600_000
"""In one answer: a number takes up to 22 characters of JSON, and a line may have 16 MiB."""
_MAX_SEQUENCES = 16
_CTX_STEP = 2048
_MIN_BATCH, _MAX_BATCH = 32, 256
"""Tokens in one decode: while it runs, answers wait."""
_LOGITS_BYTES = 64 << 20
"""llama.cpp computes logits beside the vectors, for every token: they bound the batch."""
_FLOAT_BYTES = 4
_DECLARED: dict[str | None, Literal["mean", "cls", "last"]] = {"1": "mean", "2": "cls", "3": "last"}
# llama.h, enum llama_pooling_type


@dataclass(frozen=True, kw_only=True)
class _Open:
    context: ContextHandle
    batch: Batch
    n_ctx: int


class Embedder:
    """Embeds texts of up to `n_ctx` tokens. One `embed` at a time."""

    def __init__(
        self, model: ModelHandle, *, n_ctx: int, n_vocab: int, n_threads: int, kv_type: KvType = "f16"
    ) -> None:
        self._model = model
        self._kv_type = kv_type
        self._n_threads = n_threads
        self._is_causal = bindings.model_arch_value(model, "attention.causal") != "false"
        self._declared = _DECLARED.get(bindings.model_arch_value(model, "pooling_type"), "mean")
        self._n_sequences = 1 if bindings.model_is_recurrent(model) else _MAX_SEQUENCES
        self._n_vocab = n_vocab
        self._open: _Open | None = None
        self.n_embd = bindings.embedding_size(model)
        self.n_ctx = n_ctx

    def embed(
        self, texts: Sequence[Sequence[int]], *, pooling: Pooling, normalize: bool
    ) -> Generator[None, None, Vectors]:
        """Yield after every decode, so that others get their turn; return a vector for each text.

        `cls` is the first token's vector, `last` the last one's. Normalised vectors have length 1. Raise
        `ContextOverflow`, `UsageError`, `NotEnoughMemory` or `EngineError`. May be closed at any `yield`.
        """
        import numpy as np

        self._check(texts)
        how = self._declared if pooling == "auto" else pooling
        pooled = np.zeros((len(texts), self.n_embd))
        lengths = [len(text) for text in texts]
        opened = self._opened(max(lengths))
        for pieces in pack(lengths, n_batch=opened.batch.capacity, n_sequences=self._n_sequences):
            data = self._decode(opened, texts, pieces)
            rows = np.frombuffer(data, dtype=np.float32).reshape(-1, self.n_embd)
            for piece in pieces:
                own, rows = rows[: piece.end - piece.start], rows[piece.end - piece.start :]
                _pool(pooled[piece.text], own, piece, how=how, length=lengths[piece.text])
            yield
        return tuple(map(tuple, (_normalized(pooled) if normalize else pooled).astype(np.float32).tolist()))

    def free(self) -> None:
        """Give the context's memory back; the next `embed` makes a new one."""
        if self._open is not None:
            bindings.free_context(self._open.context)
            self._open = None

    def _decode(self, opened: _Open, texts: Sequence[Sequence[int]], pieces: Sequence[Piece]) -> memoryview:
        batch = opened.batch
        if pieces[0].start == 0:
            bindings.kv_clear(opened.context)
        batch.clear()
        for sequence, piece in enumerate(pieces):
            tokens = texts[piece.text][piece.start : piece.end]
            batch.add(tokens, sequence=sequence, n_past=piece.start, n_logits=len(tokens))
        result = batch.decode(opened.context)
        if result != "ok":
            raise EngineError(f"llama.cpp could not compute the embeddings ({result}).")
        return bindings.token_vectors(opened.context, batch.n_tokens * self.n_embd)

    def _opened(self, longest: int) -> _Open:
        """Return a context for texts of up to `longest` tokens; a larger one replaces a smaller one.

        Few texts are as long as the chat's context, whose KV cache would be wanted a second time.
        """
        n_ctx = min(self.n_ctx, -(-max(longest, _MAX_BATCH) // _CTX_STEP) * _CTX_STEP)
        if self._open is None or self._open.n_ctx < n_ctx:
            self.free()
            n_batch = _n_batch(n_ctx, self._n_vocab) if self._is_causal else n_ctx
            options = ContextOptions(
                n_ctx=n_ctx,
                n_batch=n_batch,
                n_ubatch=n_batch,
                n_outputs=n_batch,
                n_sequences=min(self._n_sequences, n_batch),
                n_threads=self._n_threads,
                kv_type=self._kv_type,
            )
            context = bindings.new_embedding_context(self._model, options)
            self._open = _Open(context=context, batch=Batch(n_batch), n_ctx=n_ctx)
        return self._open

    def _check(self, texts: Sequence[Sequence[int]]) -> None:
        at_once = max(1, MAX_NUMBERS // self.n_embd)
        if len(texts) > at_once:
            raise UsageError(
                f"There are {len(texts)} texts to embed, {at_once} fit into one answer.",
                hint="Send them in several requests.",
            )
        for number, tokens in enumerate(texts, start=1):
            if not tokens:
                raise UsageError(f"Text {number} to embed is empty.", hint="Leave empty texts out.")
            if len(tokens) > self.n_ctx:
                raise ContextOverflow(
                    f"Text {number} to embed has {len(tokens)} tokens, the context holds {self.n_ctx}.",
                    n_prompt=len(tokens),
                    n_ctx=self.n_ctx,
                    hint="Split the text, or use a larger --ctx.",
                )


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Tokens `start` to `end` of text number `text`."""

    text: int
    start: int
    end: int


def pack(lengths: Sequence[int], *, n_batch: int, n_sequences: int) -> Iterator[tuple[Piece, ...]]:
    """Yield what to decode together: as many whole texts as fit, or a part of one that does not fit.

    At most `n_batch` tokens of at most `n_sequences` texts, in the order of the texts.
    """
    batch: list[Piece] = []
    room = n_batch
    for text, length in enumerate(lengths):
        if batch and (length > room or len(batch) == n_sequences):
            yield tuple(batch)
            batch, room = [], n_batch
        if length <= n_batch:
            batch.append(Piece(text=text, start=0, end=length))
            room -= length
        else:
            n_pieces = -(-length // n_batch)
            cuts = [length * n // n_pieces for n in range(n_pieces + 1)]
            for start, end in pairwise(cuts):
                yield (Piece(text=text, start=start, end=end),)
    if batch:
        yield tuple(batch)


def _n_batch(n_ctx: int, n_vocab: int) -> int:
    return min(n_ctx, _MAX_BATCH, max(_MIN_BATCH, _LOGITS_BYTES // (_FLOAT_BYTES * n_vocab)))


def _pool(
    pooled: NDArray[np.float64],
    rows: NDArray[np.float32],
    piece: Piece,
    *,
    how: Literal["mean", "cls", "last"],
    length: int,
) -> None:
    """Add the vectors `rows` [n_tokens, n_embd] of a piece to its text's vector `pooled` [n_embd]."""
    if how == "mean":
        pooled += rows.sum(axis=0, dtype=pooled.dtype) / length
    elif how == "cls" and piece.start == 0:
        pooled[:] = rows[0]
    elif how == "last" and piece.end == length:
        pooled[:] = rows[-1]


def _normalized(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rows with Euclidean length 1; a row of zeros stays."""
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    result: NDArray[np.float64] = vectors / np.where(lengths == 0, 1, lengths)
    return result
