"""Make a request into a running answer: prompt, tokens, its place in the KV cache, sampler and parser.

Everything that can be wrong with a request comes out here, before it disturbs anybody.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgeapp.engine import prompts
from edgeapp.engine.answer_stream import AnswerStream
from edgeapp.engine.answering import Answering, Cost, Tools
from edgeapp.engine.delta_writer import DeltaWriter
from edgeapp.engine.dialects import GENERIC
from edgeapp.engine.drafting import Drafter, LookupSource
from edgeapp.engine.sampler import Sampler
from edgeapp.errors import UsageError
from edgeapp.protocol import Notice

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeapp.engine.adapters import Adapters
    from edgeapp.engine.batch_cost import BatchCost
    from edgeapp.engine.constraint import ConstraintFactory
    from edgeapp.engine.kv import KvCache
    from edgeapp.engine.model import LoadedModel
    from edgeapp.engine.presets import PresetPrefixes
    from edgeapp.engine.prompts import Prompt
    from edgeapp.protocol import Event, Generate

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
        tools = self._tools(request, prompt)
        try:
            return self._placed(request, prompt, tools, arrived_s=arrived_s)
        except BaseException:
            tools.sampler.free()
            raise

    def _placed(self, request: Generate, prompt: Prompt, tools: Tools, *, arrived_s: float) -> Answering:
        started_s = time.perf_counter()
        n_preset = self.presets.length(request, prompt.tokens)
        saved = self.presets.find(prompt.key, prompt.tokens[:n_preset])
        sequence = self.kv.claim(prompt.key, prompt.tokens, saved=saved)
        n_cached = len(sequence.tokens)
        stops = {n_preset: self.presets.keep} if n_cached < n_preset else {}
        if self.kv.needs_checkpoints:
            # A later conversation that shares this prompt goes back to here, to compute its last token.
            stops[len(prompt.tokens) - 1] = self.kv.checkpoint
        return Answering(
            request,
            model=self.model,
            kv=self.kv,
            sequence=sequence,
            prompt=prompt,
            stops=stops,
            tools=tools,
            cost=Cost(
                arrived_s=arrived_s,
                started_s=started_s,
                n_prompt=len(prompt.tokens),
                n_cached=n_cached,
            ),
            emit=self.emit,
        )

    def _tools(self, request: Generate, prompt: Prompt) -> Tools:
        constraint = self.constraints.compile(prompt.grammar) if prompt.grammar else None
        vocab = self.model.vocab
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
        sampler = self._sampler(request, prompt)
        sampler.constraint = constraint if stream.in_answer or is_raw else None
        return Tools(
            sampler=sampler,
            stream=stream,
            writer=DeltaWriter(request.id, self.emit),
            drafter=self._drafter(request, prompt),
            constraint=constraint,
            spelled=vocab.tokens_named(dialect.special_texts),
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
            n_ctx_train=self.model.n_ctx_train,
            banned=vocab.eog_tokens if request.ignore_eos else (),
            prompt=prompt.tokens,
        )

    def _drafter(self, request: Generate, prompt: Prompt) -> Drafter | None:
        """A model that cannot forget a part could not take a wrong draft back.

        Nor is there one where a seed asks for the same answer every time: how long a draft is depends on the
        time it takes, and rounding depends on how many tokens are computed together.
        """
        sampling = request.sampling
        is_seeded = sampling.seed is not None and sampling.temp > 0
        if request.drafting.mode == "off" or is_seeded or not self.model.can_truncate:
            return None
        drafter = Drafter(LookupSource(), max_tokens=request.drafting.max_tokens, batch_cost=self.batch_cost)
        drafter.start(prompt.tokens)
        return drafter


def _check(request: Generate) -> None:
    if request.logprobs > MAX_LOGPROBS:
        raise UsageError(
            f"{request.logprobs} alternatives were asked for with each token, {MAX_LOGPROBS} are the most.",
            hint=f"Ask for {MAX_LOGPROBS} or fewer.",
        )
    if request.drafting.max_tokens < 0 or request.max_tokens < 0:
        raise UsageError("A number of tokens cannot be negative.", hint="0 means no limit.")
