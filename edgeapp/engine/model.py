"""A loaded model: vocabulary, chat template and one context, freed in reverse order.

Knows no protocol message and no request; `edgeapp.engine.loop` drives it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from edgeapp.engine import bindings
from edgeapp.engine.bindings import AbortFlag, Batch, ContextHandle, ContextOptions, ModelOptions, VocabHandle
from edgeapp.engine.templates import MARK, ChatTemplate
from edgeapp.errors import UnsupportedModel
from edgeapp.protocol import Load, LoadPhase, Message

if TYPE_CHECKING:
    from edgeapp.engine.collector import Collector

OnProgress = Callable[[LoadPhase, float], None]


class Vocab:
    """Text to tokens and back."""

    def __init__(self, handle: VocabHandle) -> None:
        self._handle = handle
        self.facts = bindings.vocab_facts(handle)
        self._pieces: dict[int, bytes] = {}

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        return bindings.tokenize(self._handle, text, add_special=add_special, parse_special=parse_special)

    def tokenize_prompt(self, prompt: str, *, is_start: bool) -> list[int]:
        """Tokenise a rendered template; text on both sides of a `MARK` can form no control token.

        `is_start` adds the BOS token where the vocabulary wants one and the template has not written it.
        """
        tokens = [token for part in prompt.split(MARK) for token in self.tokenize(part)]
        bos = self.facts.bos
        if is_start and self.facts.add_bos and bos is not None and tokens[:1] != [bos]:
            tokens.insert(0, bos)
        return tokens

    def piece(self, token: int) -> bytes:
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = bindings.token_to_piece(self._handle, token)
        return piece

    def is_eog(self, token: int) -> bool:
        return bindings.is_eog(self._handle, token)

    @cached_property
    def eog_tokens(self) -> tuple[int, ...]:
        return tuple(token for token in range(self.facts.n_tokens) if self.is_eog(token))

    def text_of(self, token: int | None) -> str:
        return "" if token is None else bindings.token_text(self._handle, token)


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """Everything the decode loop needs. `abort` ends a running decode from another thread."""

    vocab: Vocab
    template: ChatTemplate
    context: ContextHandle
    batch: Batch
    abort: AbortFlag
    n_ctx: int
    n_ctx_train: int
    n_batch: int
    n_threads: int
    n_outputs: int
    """For how many tokens of one decode logits can be asked."""
    collector: Collector | None
    desc: str

    def prompt(self, messages: Sequence[Message]) -> str:
        facts = self.vocab.facts
        return self.template.render(
            messages, control_texts=facts.control_texts, user_defined_texts=facts.user_defined_texts
        )


@contextmanager
def load(request: Load, on_progress: OnProgress) -> Iterator[LoadedModel]:
    """Load weights, create the context, run one warm-up token; free everything afterwards.

    Raise `NotEnoughMemory`, `UnsupportedModel` or `LoadFailed`.
    """
    with ExitStack() as stack:
        options = ModelOptions(
            n_gpu_layers=request.n_gpu_layers,
            cpu_experts=request.cpu_experts,
            use_mmap=request.use_mmap,
            repack=request.repack,
        )
        handle = bindings.load_model(request.path, options, _percent_steps(on_progress))
        stack.callback(bindings.free_model, handle)
        if not bindings.model_has_decoder(handle):
            raise UnsupportedModel(
                "This model is an encoder (embeddings, translation), not a chat model.",
                hint="Choose a decoder-only language model.",
            )
        on_progress("context", 0.0)
        abort = AbortFlag()
        collector = _collector() if request.collect else None
        context = bindings.new_context(
            handle,
            _context_options(request),
            # An aborted micro-batch would have been added up in part.
            abort=None if collector else abort,
            watch=collector.callback if collector else None,
        )
        stack.callback(bindings.free_context, context)
        batch = Batch(request.n_ubatch)
        stack.callback(batch.free)
        vocab = Vocab(bindings.get_vocab(handle))
        model = LoadedModel(
            vocab=vocab,
            template=ChatTemplate(
                bindings.chat_template(handle),
                bos_text=vocab.text_of(vocab.facts.bos),
                eos_text=vocab.text_of(vocab.facts.eos),
            ),
            context=context,
            batch=batch,
            abort=abort,
            n_ctx=bindings.context_n_ctx(context),
            n_ctx_train=bindings.model_n_ctx_train(handle),
            n_batch=bindings.context_n_batch(context),
            n_threads=request.n_threads,
            n_outputs=_n_outputs(request),
            collector=collector,
            desc=bindings.model_desc(handle),
        )
        on_progress("warmup", 0.0)
        _warm_up(model)
        yield model


def _context_options(request: Load) -> ContextOptions:
    return ContextOptions(
        n_ctx=request.n_ctx,
        n_batch=request.n_ubatch,
        n_ubatch=request.n_ubatch,
        n_threads=request.n_threads,
        n_outputs=_n_outputs(request),
        kv_type=request.kv_type,
    )


def _n_outputs(request: Load) -> int:
    """Every token needs logits where activations are collected, or the last layer would skip it."""
    return request.n_ubatch if request.collect else min(request.n_outputs or 1, request.n_ubatch)


def _collector() -> Collector:
    # numpy is a tenth of a second that a chat does not need.
    from edgeapp.engine.collector import Collector

    return Collector()


def _warm_up(model: LoadedModel) -> None:
    """Decode one token and forget it: pages the weights in and proves that the model computes."""
    first = model.vocab.facts.bos if model.vocab.facts.bos is not None else 0
    model.batch.decode(model.context, [first], n_past=0, n_logits=1)
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
