"""One running answer: what it computes next, and what comes of the logits. Knows no other answer.

Its life: the prompt is read in slices, then every step decodes the last token, and drafted ones behind it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeapp.engine.prefix import common_length
from edgeapp.engine.scheduler import Work
from edgeapp.protocol import Done, Progress, Timings, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgeapp.engine.answer_stream import AnswerStream
    from edgeapp.engine.constraint import Constraint
    from edgeapp.engine.delta_writer import DeltaWriter
    from edgeapp.engine.drafting import Drafter
    from edgeapp.engine.kv import KvCache
    from edgeapp.engine.model import LoadedModel
    from edgeapp.engine.prompts import Prompt
    from edgeapp.engine.sampler import Sampler
    from edgeapp.engine.scheduler import Share
    from edgeapp.engine.sequence import Sequence
    from edgeapp.protocol import Event, FinishReason, Generate, TokenLogprob


@dataclass(kw_only=True)
class Cost:
    """What an answer has cost so far. Times are `time.perf_counter`'s."""

    arrived_s: float
    started_s: float
    n_prompt: int
    n_cached: int
    prefilled_s: float = 0.0
    first_token_s: float = 0.0
    last_token_s: float = 0.0
    n_decoded: int = 0
    n_reasoning: int = 0
    n_drafted: int = 0
    n_accepted: int = 0


@dataclass(kw_only=True)
class Tools:
    """What chooses, splits and writes the tokens of one answer."""

    sampler: Sampler
    stream: AnswerStream
    writer: DeltaWriter
    drafter: Drafter | None
    constraint: Constraint | None
    """What the answer must obey once the reasoning before it is over."""
    spelled: frozenset[int]
    """Control tokens that the stream wants to see as text."""


class Answering:
    """An answer in `sequence`. `finished` says why it ended, once it has.

    `stops` are called when so many tokens of the prompt have been read, with a decode that ends there.
    """

    def __init__(
        self,
        request: Generate,
        *,
        model: LoadedModel,
        kv: KvCache,
        sequence: Sequence,
        prompt: Prompt,
        stops: Mapping[int, Callable[[Sequence], None]],
        tools: Tools,
        cost: Cost,
        emit: Callable[[Event], None],
    ) -> None:
        self.request = request
        self.sequence = sequence
        self.cost = cost
        self.finished: FinishReason | None = None
        self.n_skipped = 0
        self._model = model
        self._kv = kv
        self._prompt = prompt
        self._tokens = prompt.tokens
        self._stops = stops
        self._tools = tools
        self._emit = emit
        self._pending: list[int] = []
        """The token that was chosen last, and the drafted ones behind it; empty while the prompt is read."""
        self._row = 0
        self._n_fed = 0

    # Before a decode -------------------------------------------------------------------------------------

    def work(self, *, slot: int, rank: int, n_batch: int) -> Work:
        """Return what could be computed next, in a step in which `n_batch` answers are decoded."""
        if not self._pending:
            return Work(slot=slot, n_prefill=self._n_to_stop(), rank=rank, n_skipped=self.n_skipped)
        self._draft(n_batch)
        return Work(slot=slot, n_decode=len(self._pending), rank=rank, n_skipped=self.n_skipped)

    def feed_next(self, n_most: int) -> int:
        """Add the next token, and drafted ones, at most `n_most`, to the batch; return how many."""
        self._draft(1)
        self._add(self._pending[:n_most], n_rows=n_most)
        return self._n_fed

    @property
    def is_reading(self) -> bool:
        """Tell whether the prompt is still being read."""
        return not self._pending

    def n_to_share(self, prompt: Prompt) -> int:
        """Return how many tokens that `prompt` begins with, too, are still to be computed here."""
        if prompt.key != self._prompt.key:
            return 0
        return common_length(self._tokens, prompt.tokens) - len(self.sequence.tokens)

    def _n_to_stop(self) -> int:
        """Return how many tokens of the prompt may be read in one go."""
        n_past = len(self.sequence.tokens)
        return min(stop for stop in (*self._stops, len(self._tokens)) if stop > n_past) - n_past

    def _draft(self, n_batch: int) -> None:
        """Put new drafted tokens behind the one that was chosen last."""
        del self._pending[1:]
        n_left = self._model.n_ctx - len(self.sequence.tokens) - 2
        if self.request.max_tokens:
            n_left = min(n_left, self.request.max_tokens - self.cost.n_decoded - 1)
        if self._tools.drafter is not None and n_left > 0:
            self._pending += self._tools.drafter.draft(n_left, n_batch=n_batch)

    def feed(self, share: Share) -> None:
        """Add the share's tokens to the batch."""
        n_past = len(self.sequence.tokens)
        source = self._pending or self._tokens[n_past : n_past + share.n_tokens]
        self._add(source[: share.n_tokens], n_rows=share.n_rows)

    def _add(self, tokens: list[int], *, n_rows: int) -> None:
        self._n_fed = len(tokens)
        self._row = self._model.batch.add(
            tokens,
            sequence=self.sequence.id,
            n_past=len(self.sequence.tokens),
            n_logits=min(n_rows, len(tokens)),
        )

    # After a decode --------------------------------------------------------------------------------------

    def absorb(self) -> None:
        """Take what the decode has computed: note the tokens, choose the next one where there are logits."""
        if self._pending:
            self._absorb_tokens()
        else:
            self._absorb_prompt()

    def undo(self) -> None:
        """Take an aborted decode out of the KV cache, of which it may have written a part."""
        self._kv.truncate(self.sequence, len(self.sequence.tokens))

    def _absorb_prompt(self) -> None:
        n_past = len(self.sequence.tokens)
        self._kv.append(self.sequence, self._tokens[n_past : n_past + self._n_fed])
        n_past += self._n_fed
        if n_past in self._stops:
            self._stops[n_past](self.sequence)
        if n_past < len(self._tokens):
            self._report_prefill(n_past)
            return
        self.sequence.rendered = (self._prompt.text + self._prompt.begun).encode()
        self.cost.prefilled_s = time.perf_counter()
        self._choose(self._row)

    def _report_prefill(self, n_past: int) -> None:
        n_cached = self.cost.n_cached
        fraction = (n_past - n_cached) / (len(self._tokens) - n_cached)
        self._emit(Progress(id=self.request.id, phase="prefill", fraction=fraction))

    def _absorb_tokens(self) -> None:
        """Accept drafted tokens as long as they are what the sampler chooses; forget the others."""
        fed = self._pending[: self._n_fed]
        self._kv.append(self.sequence, fed)
        n_kept = 0
        for position, token in enumerate(fed):
            self.sequence.rendered += self._model.vocab.piece(token, special=True)
            n_kept += 1
            self._choose(self._row + position)
            is_as_drafted = position + 1 < len(fed) and self._pending[0] == fed[position + 1]
            if self.finished is not None or not is_as_drafted:
                break
        if n_kept < len(fed):
            self._kv.truncate_drafts(self.sequence, len(self.sequence.tokens) - len(fed) + n_kept)
        if self._tools.drafter is not None and self._n_fed > 1:
            self.cost.n_drafted += self._n_fed - 1
            self.cost.n_accepted += n_kept - 1
            self._tools.drafter.report(self._n_fed - 1, n_kept - 1)

    def _choose(self, row: int) -> None:
        """Choose the token that follows batch row `row`, and show it."""
        context, vocab = self._model.context, self._model.vocab
        token = self._tools.sampler.choose(context, row)
        cost = self.cost
        cost.last_token_s = time.perf_counter()
        if not cost.first_token_s:
            cost.first_token_s = cost.last_token_s
        self._pending = [token]
        if self._tools.drafter is not None:
            self._tools.drafter.accept((token,))
        if vocab.is_eog(token):
            self.finished = "stop"
            return
        cost.n_decoded += 1
        self._show(token, row)
        self.finished = self._end()

    def _show(self, token: int, row: int) -> None:
        tools = self._tools
        if self.request.logprobs >= 0:
            tools.writer.add_logprob(self._logprob(token, row))
        was_thinking = not tools.stream.in_answer
        parts = tools.stream.push(self._model.vocab.piece(token, special=token in tools.spelled))
        self.cost.n_reasoning += was_thinking
        if was_thinking and tools.stream.in_answer:
            tools.sampler.constraint = tools.constraint
        tools.writer.push(
            parts,
            n_tokens=self.cost.n_decoded,
            n_ctx_used=len(self.sequence.tokens) + 1,
            now_s=self.cost.last_token_s,
        )

    def _logprob(self, token: int, row: int) -> TokenLogprob:
        from edgeapp.engine.logprobs import token_logprobs  # numpy, which a plain chat does not need

        n_top = self.request.logprobs
        return token_logprobs(self._model.context, row, token, n_top=n_top, vocab=self._model.vocab)

    def _end(self) -> FinishReason | None:
        tools, n_ctx_used = self._tools, len(self.sequence.tokens) + 1
        if tools.stream.stopped or (tools.sampler.constraint and tools.sampler.constraint.is_complete):
            return "stop"
        if self.cost.n_decoded == self.request.max_tokens or n_ctx_used >= self._model.n_ctx:
            return "length"
        return None

    # The end ---------------------------------------------------------------------------------------------

    def close(self, reason: FinishReason, *, load_s: float) -> Done:
        """Write what is left of the text and return the closing event."""
        tools, cost = self._tools, self.cost
        tools.writer.finish(tools.stream.finish())
        if reason == "stop" and tools.stream.has_tool_calls:
            reason = "tool_calls"
        return Done(
            id=self.request.id,
            finish_reason=reason,
            usage=Usage(
                prompt_tokens=cost.n_prompt,
                completion_tokens=cost.n_decoded,
                cached_tokens=cost.n_cached,
                reasoning_tokens=cost.n_reasoning,
            ),
            timings=_timings(cost, load_s=load_s),
            n_ctx=self._model.n_ctx,
            # The last token of an answer that was cut off has been chosen but not computed.
            n_ctx_used=len(self.sequence.tokens) + (reason == "length"),
        )

    def free(self) -> None:
        self._tools.sampler.free()


def _timings(cost: Cost, *, load_s: float) -> Timings:
    decode_s = cost.last_token_s - cost.first_token_s
    prefill_s = cost.prefilled_s - cost.started_s
    return Timings(
        load_s=load_s,
        ttft_s=max(0.0, cost.first_token_s - cost.arrived_s),
        prompt_tps=(cost.n_prompt - cost.n_cached) / prefill_s if prefill_s > 0 else 0.0,
        # The first token came out of the prefill; the rate counts the steps after it.
        decode_tps=(cost.n_decoded - 1) / decode_s if decode_s and cost.n_decoded > 1 else 0.0,
        queue_s=cost.started_s - cost.arrived_s,
        draft_tokens=cost.n_drafted,
        draft_accepted=cost.n_accepted,
    )
