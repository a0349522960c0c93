"""Answer one request: render, reuse the cached prefix, prefill, decode, say how it went.

One sequence at a time. Knows the model and the events it emits, no pipe and no thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeapp.engine import bindings
from edgeapp.engine.answer_text import AnswerText
from edgeapp.engine.sampler import sampler
from edgeapp.engine.sequence import CachedSequence, Cancelled
from edgeapp.errors import ContextOverflow, EngineError
from edgeapp.protocol import (
    Delta,
    Done,
    Event,
    FinishReason,
    Generate,
    Heartbeat,
    Progress,
    Timings,
    Usage,
)

if TYPE_CHECKING:
    from edgeapp.engine.bindings import SamplerHandle
    from edgeapp.engine.model import LoadedModel

DELTA_INTERVAL_S = 1 / 15
"""At most this often a line is written: every write wakes the front end on a core that ggml is using."""
HEARTBEAT_S = 0.5

Emit = Callable[[Event], None]


@dataclass
class _Progress:
    """What one answer has cost so far."""

    started_s: float
    n_prompt: int = 0
    n_cached: int = 0
    n_decoded: int = 0
    prefill_s: float = 0.0
    first_token_s: float = 0.0
    last_token_s: float = 0.0


class DecodeLoop:
    """Continues conversations in `sequence`, one after the other."""

    def __init__(self, model: LoadedModel, sequence: CachedSequence, *, load_s: float, emit: Emit) -> None:
        self._model = model
        self._sequence = sequence
        self._prefix = sequence.prefix
        self._load_s = load_s
        self._emit = emit

    def answer(self, request: Generate) -> Done:
        """Stream `Progress` and `Delta` events and return the closing `Done`.

        Raise `ContextOverflow`, `TemplateError` or `EngineError`; the KV cache stays consistent.
        """
        cost = _Progress(started_s=time.perf_counter())
        writer = _DeltaWriter(request, self._emit)
        prompt = self._model.prompt(request.messages)
        tokens = self._tokenize(prompt)
        try:
            self._prefill(request, tokens, cost)
            self._prefix.rendered = prompt.encode()
            reason = self._decode(request, writer, cost)
        except Cancelled:
            reason = "cancelled"
        except EngineError:
            self._sequence.forget()
            raise
        writer.finish(cost.n_decoded, n_ctx_used=len(self._prefix.tokens))
        return self._done(request, reason, cost)

    def _tokenize(self, prompt: str) -> list[int]:
        vocab = self._model.vocab
        rest = self._prefix.rest_of(prompt) if vocab.facts.is_bpe else None
        if rest is not None:
            # The answer's own tokens stay, even where tokenising its text again would cut it differently.
            tokens = self._prefix.tokens + vocab.tokenize_prompt(rest, is_start=False)
        else:
            tokens = vocab.tokenize_prompt(prompt, is_start=True)
        if not tokens:
            raise EngineError("The prompt is empty.", hint="Write something.")
        if len(tokens) >= self._model.n_ctx:
            raise ContextOverflow(
                f"The conversation has {len(tokens)} tokens, the context holds {self._model.n_ctx}.",
                hint=self._sequence.more_room(),
            )
        return tokens

    # Prefill ---------------------------------------------------------------------------------------------

    def _prefill(self, request: Generate, tokens: Sequence[int], cost: _Progress) -> None:
        # The last prompt token is decoded even when it is cached: its logits choose the first new token.
        n_past = self._sequence.keep(min(self._prefix.common(tokens), len(tokens) - 1))
        cost.n_prompt, cost.n_cached = len(tokens), n_past
        self._prefix.rendered = b""  # until the whole prompt is in: a cancel may leave a part of it
        step, total = self._model.n_batch, len(tokens) - n_past
        for start in range(n_past, len(tokens), step):
            if total > step:
                self._emit(Progress(id=request.id, phase="prefill", fraction=(start - n_past) / total))
            chunk = tokens[start : start + step]
            self._sequence.feed(request.id, chunk, n_logits=int(start + step >= len(tokens)))
            self._emit(Heartbeat(id=request.id))
        cost.prefill_s = time.perf_counter() - cost.started_s

    # Decode ----------------------------------------------------------------------------------------------

    def _decode(self, request: Generate, writer: _DeltaWriter, cost: _Progress) -> FinishReason:
        vocab = self._model.vocab
        banned = vocab.eog_tokens if request.ignore_eos else ()
        with sampler(request.sampling, n_vocab=vocab.facts.n_tokens, banned=banned) as chain:
            while True:
                token = self._sample(chain, cost)
                if vocab.is_eog(token):
                    return "stop"
                cost.n_decoded += 1
                piece = vocab.piece(token)
                n_ctx_used = len(self._prefix.tokens) + 1
                writer.push(piece, cost.n_decoded, n_ctx_used=n_ctx_used, now_s=cost.last_token_s)
                if writer.stopped:
                    return "stop"
                if cost.n_decoded == request.max_tokens or n_ctx_used >= self._model.n_ctx:
                    return "length"
                self._sequence.feed(request.id, (token,), n_logits=1)
                self._prefix.rendered += piece

    def _sample(self, chain: SamplerHandle, cost: _Progress) -> int:
        token = bindings.sample(chain, self._model.context)
        cost.last_token_s = time.perf_counter()
        if not cost.first_token_s:
            cost.first_token_s = cost.last_token_s
        return token

    def _done(self, request: Generate, reason: FinishReason, cost: _Progress) -> Done:
        decode_s = cost.last_token_s - cost.first_token_s
        n_prefilled = cost.n_prompt - cost.n_cached
        return Done(
            id=request.id,
            finish_reason=reason,
            usage=Usage(
                prompt_tokens=cost.n_prompt,
                completion_tokens=cost.n_decoded,
                cached_tokens=cost.n_cached,
            ),
            timings=Timings(
                load_s=self._load_s,
                ttft_s=max(0.0, cost.first_token_s - cost.started_s),
                prompt_tps=n_prefilled / cost.prefill_s if cost.prefill_s else 0.0,
                # The first token came out of the prefill; the rate counts the steps after it.
                decode_tps=(cost.n_decoded - 1) / decode_s if decode_s and cost.n_decoded > 1 else 0.0,
            ),
            n_ctx=self._model.n_ctx,
            # The last token of an answer that was cut off has been chosen but not computed.
            n_ctx_used=len(self._prefix.tokens) + (reason == "length"),
        )


class _DeltaWriter:
    """Emits text the moment the first arrives, then at most every `DELTA_INTERVAL_S`."""

    def __init__(self, request: Generate, emit: Emit) -> None:
        self._id = request.id
        self._emit = emit
        self._text = AnswerText(request.stop)
        self._pending = ""
        self._next_s = 0.0

    @property
    def stopped(self) -> bool:
        return self._text.stopped

    def push(self, piece: bytes, n_tokens: int, *, n_ctx_used: int, now_s: float) -> None:
        self._pending += self._text.push(piece)
        if self._pending and now_s >= self._next_s:
            self._write(n_tokens, n_ctx_used)
            self._next_s = now_s + DELTA_INTERVAL_S
        elif now_s >= self._next_s + HEARTBEAT_S:  # tokens without text: control tokens, a held stop string
            self._emit(Heartbeat(id=self._id))
            self._next_s = now_s

    def finish(self, n_tokens: int, *, n_ctx_used: int) -> None:
        self._pending += self._text.finish()
        if self._pending:
            self._write(n_tokens, n_ctx_used)

    def _write(self, n_tokens: int, n_ctx_used: int) -> None:
        self._emit(Delta(id=self._id, text=self._pending, n_tokens=n_tokens, n_ctx_used=n_ctx_used))
        self._pending = ""
