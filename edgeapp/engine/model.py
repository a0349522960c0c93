"""A loaded model: vocabulary, chat template and one context, freed in reverse order.

Knows no protocol message and no request; `edgeapp.engine.loop` drives it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from edgeapp.engine import bindings
from edgeapp.engine.bindings import (
    AbortFlag,
    Batch,
    ContextHandle,
    ModelHandle,
    VocabHandle,
)
from edgeapp.engine.load_options import (
    context_options,
    is_unified,
    model_options,
    n_outputs,
    n_sequences,
    padded,
)
from edgeapp.engine.templates import MARK, ChatTemplate
from edgeapp.errors import UnsupportedModel
from edgeapp.protocol import Load, LoadPhase, Message, Tool

if TYPE_CHECKING:
    from edgeapp.engine.collector import Collector
    from edgeapp.engine.expert_usage import ExpertUsageCounter

OnProgress = Callable[[LoadPhase, float], None]


class Vocab:
    """Text to tokens and back."""

    def __init__(self, handle: VocabHandle) -> None:
        self.handle = handle
        self.facts = bindings.vocab_facts(handle)
        self._pieces: dict[int, bytes] = {}
        self._spelled: dict[int, bytes] = {}
        self._eog: dict[int, bool] = {}

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        return bindings.tokenize(self.handle, text, add_special=add_special, parse_special=parse_special)

    def tokenize_prompt(self, prompt: str, *, is_start: bool) -> list[int]:
        """Tokenise a rendered template; text on both sides of a `MARK` can form no control token.

        `is_start` adds the BOS token where the vocabulary wants one and the template has not written it.
        """
        tokens = [token for part in prompt.split(MARK) for token in self.tokenize(part)]
        bos = self.facts.bos
        if is_start and self.facts.add_bos and bos is not None and tokens[:1] != [bos]:
            tokens.insert(0, bos)
        return tokens

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Return the token's bytes; `special` spells control tokens out, which have none otherwise."""
        known = self._spelled if special else self._pieces
        piece = known.get(token)
        if piece is None:
            piece = known[token] = bindings.token_to_piece(self.handle, token, special=special)
        return piece

    def is_eog(self, token: int) -> bool:
        known = self._eog.get(token)
        if known is None:
            known = self._eog[token] = bindings.is_eog(self.handle, token)
        return known

    @cached_property
    def eog_tokens(self) -> tuple[int, ...]:
        return tuple(token for token in range(self.facts.n_tokens) if self.is_eog(token))

    def tokens_named(self, texts: frozenset[str]) -> frozenset[int]:
        """Return the control and user-defined tokens with these texts."""
        known = texts & {*self.facts.control_texts, *self.facts.user_defined_texts}
        return frozenset(token for text in known for token in self.tokenize(text))

    def text_of(self, token: int | None) -> str:
        return "" if token is None else bindings.token_text(self.handle, token)


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """Everything the decode loop needs. `abort` ends a running decode from another thread."""

    handle: ModelHandle
    path: Path
    vocab: Vocab
    template: ChatTemplate
    context: ContextHandle
    batch: Batch
    abort: AbortFlag
    n_ctx: int
    """How many tokens one conversation may have."""
    n_kv: int
    """How many all of them may have together."""
    n_ctx_train: int
    n_batch: int
    n_parallel: int
    """How many answers are decoded at the same time."""
    is_unified: bool
    """The KV cache is one pool for all; else each sequence has its own part of `n_ctx` tokens."""
    n_sequences: int
    """How many conversations the KV cache can hold, with those that nobody continues at the moment."""
    can_truncate: bool
    """The KV cache can be cut anywhere; a recurrent state cannot."""
    n_threads: int
    n_outputs: int
    """For how many tokens of one decode logits can be asked."""
    collector: Collector | None
    expert_usage: ExpertUsageCounter | None
    n_expert: int
    """Routed experts of a layer; 0 in a dense model."""
    n_expert_used: int
    n_embd: int
    desc: str
    device: str
    """The GPU that is used; empty is none."""

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        options: Mapping[str, object] | None = None,
    ) -> str:
        """Return the prompt of a conversation, ready for an answer. Raise `TemplateError`."""
        facts = self.vocab.facts
        return self.template.render(
            messages,
            tools=tools,
            options=options or {},
            control_texts=facts.control_texts,
            user_defined_texts=facts.user_defined_texts,
        )


@contextmanager
def load(request: Load, on_progress: OnProgress) -> Iterator[LoadedModel]:
    """Load weights, create the context, run one warm-up token; free everything afterwards.

    Raise `NotEnoughMemory`, `UnsupportedModel`, `LoadFailed`, or `UsageError` for a device that there is not.
    """
    with ExitStack() as stack:
        handle = bindings.load_model(request.path, model_options(request), _percent_steps(on_progress))
        stack.callback(bindings.free_model, handle)
        if not bindings.model_has_decoder(handle):
            raise UnsupportedModel(
                "This model is an encoder (embeddings, translation), not a chat model.",
                hint="Choose a decoder-only language model.",
            )
        on_progress("context", 0.0)
        abort = AbortFlag()
        can_truncate = not bindings.model_is_recurrent(handle)
        collector = _collector() if request.collect else None
        n_expert = _count(handle, "expert_count")
        expert_usage = _expert_usage(n_expert) if request.watch_experts and n_expert else None
        watching = collector or expert_usage
        context = bindings.new_context(
            handle,
            context_options(request, can_truncate=can_truncate),
            # An aborted micro-batch would have been added up in part, or could not be taken back.
            abort=abort if can_truncate and not collector else None,
            watch=watching.callback if watching else None,
        )
        stack.callback(bindings.free_context, context)
        vocab = Vocab(bindings.get_vocab(handle))
        n_kv = bindings.context_n_ctx(context)
        n_batch = bindings.context_n_batch(context)
        model = LoadedModel(
            handle=handle,
            path=Path(request.path),
            vocab=vocab,
            template=_template(handle, vocab),
            context=context,
            batch=Batch(n_batch),
            abort=abort,
            n_ctx=min(n_kv, padded(request.n_ctx)),
            n_kv=n_kv,
            n_ctx_train=bindings.model_n_ctx_train(handle),
            n_batch=n_batch,
            n_parallel=request.n_parallel,
            is_unified=is_unified(request),
            n_sequences=n_sequences(request, can_truncate=can_truncate),
            can_truncate=can_truncate,
            n_threads=request.n_threads,
            n_outputs=n_outputs(request),
            collector=collector,
            expert_usage=expert_usage,
            n_expert=n_expert,
            n_expert_used=request.n_expert_used or _count(handle, "expert_used_count"),
            n_embd=bindings.model_n_embd(handle),
            desc=bindings.model_desc(handle),
            device=request.device,
        )
        on_progress("warmup", 0.0)
        _warm_up(model)
        yield model


def _template(handle: ModelHandle, vocab: Vocab) -> ChatTemplate:
    return ChatTemplate(
        bindings.chat_template(handle),
        tool_use=bindings.chat_template(handle, "tool_use"),
        bos_text=vocab.text_of(vocab.facts.bos),
        eos_text=vocab.text_of(vocab.facts.eos),
        vocabulary={*vocab.facts.control_texts, *vocab.facts.user_defined_texts},
    )


def _count(handle: ModelHandle, key: str) -> int:
    """Return a number of the header; 0 where there is none, or one for each layer."""
    value = bindings.model_arch_value(handle, key) or ""
    return int(value) if value.isdigit() else 0


def _expert_usage(n_expert: int) -> ExpertUsageCounter:
    # numpy is a tenth of a second that a chat does not need.
    from edgeapp.engine.expert_usage import ExpertUsageCounter

    return ExpertUsageCounter(n_expert=n_expert)


def _collector() -> Collector:
    # numpy is a tenth of a second that a chat does not need.
    from edgeapp.engine.collector import Collector

    return Collector()


def _warm_up(model: LoadedModel) -> None:
    """Decode one token and forget it: pages the weights in and proves that the model computes."""
    first = model.vocab.facts.bos if model.vocab.facts.bos is not None else 0
    model.batch.add([first], sequence=0, n_past=0, n_logits=1)
    model.batch.decode(model.context)
    bindings.kv_clear(model.context)


def _percent_steps(on_progress: OnProgress) -> Callable[[float], bool]:
    """Report weights in whole percents: llama.cpp calls back for every tensor."""
    shown = -1

    def on_weights(fraction: float) -> bool:
        nonlocal shown
        percent = int(fraction * 100)
        if percent > shown:
            shown = percent
            on_progress("weights", fraction)
        return True

    return on_weights
