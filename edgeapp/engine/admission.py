"""Make a request into a running answer: prompt, tokens, its place in the KV cache, sampler and parser.

Everything that can be wrong with a request comes out here, before it disturbs anybody.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgeapp.engine import prompts
from edgeapp.engine.answer_stream import AnswerStream
from edgeapp.engine.answering import Answering, Cost, Tools
from edgeapp.engine.delta_writer import DeltaWriter
from edgeapp.engine.dialects import GENERIC
from edgeapp.engine.drafting import BetterOf, Drafter, LookupSource
from edgeapp.engine.sampler import Sampler
from edgeapp.errors import UsageError
from edgeapp.protocol import Notice

if TYPE_CHECKING:
    from edgeapp.engine.adapters import Adapters
    from edgeapp.engine.batch_cost import BatchCost
    from edgeapp.engine.constraint import Constraint, ConstraintFactory
    from edgeapp.engine.draft_model import DraftModel
    from edgeapp.engine.drafting import Source
    from edgeapp.engine.kv import KvCache
    from edgeapp.engine.model import LoadedModel
    from edgeapp.engine.presets import PresetPrefixes
    from edgeapp.engine.prompts import Prompt
    from edgeapp.engine.sequence import Sequence
    from edgeapp.protocol import Event, Generate

Stop = Callable[["Sequence"], None]
"""Called when so much of the prompt has been read."""
MAX_LOGPROBS = 20  # OpenAI API reference, chat completions: top_logprobs


@dataclass(frozen=True, kw_only=True)
class Admission:
    """Begins answers of one model."""

    model: LoadedModel
    kv: KvCache
    adapters: Adapters
    constraints: ConstraintFactory
    presets: PresetPrefixes
    batch_cost: BatchCost
    draft_model: DraftModel | None
    emit: Callable[[Event], None]
    load_s: float
    remarked: set[str] = field(default_factory=set)
    """What the user has been told already."""

    def read(self, request: Generate) -> Prompt:
        """Raise `UsageError`, `ContextOverflow`, `TemplateError` or `EngineError`."""
        _check(request)
        self._remark(request)
        self.adapters.check(request.adapters)
        key = self.adapters.key(request.adapters)
        return prompts.read(self.model, self.kv, request, key=key)

    def begin(self, request: Generate, prompt: Prompt, *, arrived_s: float) -> Answering:
        """Raise `UsageError`, `GrammarError` or `EngineError`."""
        started_s = time.perf_counter()
        constraint = self.constraints.compile(prompt.grammar) if prompt.grammar else None
        sampler = self._sampler(request, prompt)
        try:
            sequence, stops = self._placed(request, prompt)
        except BaseException:
            sampler.free()
            raise
        cost = Cost(
            arrived_s=arrived_s,
            started_s=started_s,
            n_prompt=len(prompt.tokens),
            n_cached=len(sequence.tokens),
        )
        return Answering(
            request,
            model=self.model,
            kv=self.kv,
            sequence=sequence,
            prompt=prompt,
            stops=stops,
            tools=self._tools(request, prompt, sequence, sampler=sampler, constraint=constraint),
            cost=cost,
            emit=self.emit,
        )

    def _placed(self, request: Generate, prompt: Prompt) -> tuple[Sequence, dict[int, Stop]]:
        """Return the sequence to go on in, and what to do at which length of the prompt."""
        n_preset = self.presets.length(request, prompt.tokens)
        saved = self.presets.find(prompt.key, prompt.tokens[:n_preset])
        sequence = self.kv.claim(prompt.key, prompt.tokens, saved=saved)
        if saved is not None and not sequence.tokens:
            self.presets.discard(saved)
        stops: dict[int, Stop] = {}
        if len(sequence.tokens) < n_preset:
            stops[n_preset] = self.presets.keep
        if self.kv.needs_checkpoints:
            # A later conversation that shares this prompt goes back to here, to compute its last token.
            stops[len(prompt.tokens) - 1] = self.kv.checkpoint
        return sequence, stops

    def _tools(
        self,
        request: Generate,
        prompt: Prompt,
        sequence: Sequence,
        *,
        sampler: Sampler,
        constraint: Constraint | None,
    ) -> Tools:
        # A text that is continued as it is belongs to no dialect.
        dialect = GENERIC if request.prompt is not None else self.model.template.dialect
        is_raw = request.raw or request.prompt is not None
        stream = AnswerStream(
            dialect,
            stop=request.stop,
            raw=is_raw,
            prompt=prompt.text + prompt.begun,
            tools=() if is_raw else prompts.tools_of(request),
            forced=prompt.begun,
        )
        sampler.constraint = constraint if stream.in_answer or is_raw else None
        return Tools(
            sampler=sampler,
            stream=stream,
            writer=DeltaWriter(request.id, self.emit),
            drafter=self._drafter(request, prompt, sequence),
            constraint=constraint,
            spelled=self.model.vocab.tokens_named(dialect.special_texts),
        )

    def _remark(self, request: Generate) -> None:
        """Say with the first request that has tools how good the model is with them."""
        remark = self.model.template.tool_remark if prompts.tools_of(request) else None
        if remark is not None and remark.code not in self.remarked:
            self.remarked.add(remark.code)
            self.emit(Notice(id=request.id, code=remark.code, message=remark.message, hint=remark.hint))

    def _sampler(self, request: Generate, prompt: Prompt) -> Sampler:
        vocab = self.model.vocab
        return Sampler(
            request.sampling,
            vocab=vocab.handle,
            n_vocab=vocab.facts.n_tokens,
            n_ctx_train=self.model.n_ctx,
            banned=vocab.eog_tokens if request.ignore_eos else (),
            prompt=prompt.tokens,
            keep_logits=request.logprobs >= 0,
        )

    def _drafter(self, request: Generate, prompt: Prompt, sequence: Sequence) -> Drafter | None:
        """A model that cannot forget a part could not take a wrong draft back."""
        if request.drafting.mode == "off" or not self.model.can_truncate:
            return None
        source: Source = LookupSource()
        if self.draft_model is not None:
            source = BetterOf(source, self.draft_model.source(sequence.id))
        drafter = Drafter(
            source,
            max_tokens=request.drafting.max_tokens,
            # Rounding depends on how many tokens are computed together, and a router may turn on it. So
            # where the same answer is wanted every time, drafts do not depend on measured times.
            batch_cost=None if _is_repeatable(request) else self.batch_cost,
        )
        drafter.start(prompt.tokens)
        return drafter


def _is_repeatable(request: Generate) -> bool:
    return request.sampling.seed is not None or request.sampling.temp == 0


def _check(request: Generate) -> None:
    if not -1 <= request.logprobs <= MAX_LOGPROBS:
        raise UsageError(
            f"{request.logprobs} alternatives were asked for with each token, {MAX_LOGPROBS} are the most.",
            hint=f"Ask for {MAX_LOGPROBS} or fewer; -1 is none.",
        )
    if request.ignore_eos and request.grammar is not None:
        raise UsageError(
            "An answer that obeys a grammar ends where the grammar ends: it cannot ignore the end.",
            hint="Leave one of the two out.",
        )
    if request.drafting.max_tokens < 0 or request.max_tokens < 0:
        raise UsageError("A number of tokens cannot be negative.", hint="0 means no limit.")
