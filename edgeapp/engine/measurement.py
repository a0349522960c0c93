"""Decode given tokens to measure the model: write logits, collect activations, count experts.

No chat template and no sampling. Shares the sequence of the chat, so the one who comes next finds in
`Solo` what is really in the KV cache. Knows no pipe and no thread.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeapp.engine import bindings
from edgeapp.engine.solo import Cancelled
from edgeapp.errors import ContextOverflow, EngineError
from edgeapp.protocol import (
    Collect,
    Collected,
    Evaluate,
    Evaluated,
    ExpertUsage,
    Progress,
    ReadExpertUsage,
    WriteImatrix,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from edgeapp.engine.collector import Collector
    from edgeapp.engine.expert_usage import ExpertUsageCounter
    from edgeapp.engine.model import LoadedModel
    from edgeapp.engine.solo import Solo
    from edgeapp.protocol import Event

_FLOAT_BYTES = 4


class Measurement:
    """Answers `Evaluate`, `Collect`, `WriteImatrix` and `ReadExpertUsage`."""

    def __init__(self, model: LoadedModel, sequence: Solo, *, emit: Callable[[Event], None]) -> None:
        self._model = model
        self._sequence = sequence
        self._emit = emit

    def evaluate(self, request: Evaluate) -> Evaluated:
        """Write the logits that are asked for. Raise `ContextOverflow`, `EngineError` or `OSError`."""
        n_vocab = self._model.vocab.facts.n_tokens
        self._check(request.tokens)
        n_rows = len(request.tokens) - request.first_logits
        if n_rows < 0 or request.first_logits < 0:
            raise EngineError(
                f"Logits from token {request.first_logits} on are not among {len(request.tokens)} tokens."
            )
        with Path(request.file).open("r+b") as file:  # the parent's, for no one else to read
            file.truncate(n_rows * n_vocab * _FLOAT_BYTES)
            for n_logits in self._decode(request, first_logits=request.first_logits):
                if n_logits:
                    file.write(bindings.logits(self._model.context, n_logits * n_vocab))
        return Evaluated(id=request.id, n_rows=n_rows, n_vocab=n_vocab)

    def collect(self, request: Collect) -> Collected:
        """Add up the squared inputs of all weights over `request.tokens`. Raise `EngineError`."""
        collector = self._collector()
        self._check(request.tokens)
        with collector.collecting(request.keep_inputs, request.inputs_folder):
            # Every token has logits: without, the last layer computes those of the last token alone.
            for _ in self._decode(request, first_logits=0):
                collector.check()
        collector.n_tokens += len(request.tokens)
        return Collected(id=request.id, n_tokens=collector.n_tokens)

    def write_imatrix(self, request: WriteImatrix) -> Collected:
        collector = self._collector()
        collector.write(request.file, datasets=request.datasets, chunk_size=request.chunk_size)
        return Collected(id=request.id, n_tokens=collector.n_tokens)

    def read_expert_usage(self, request: ReadExpertUsage) -> ExpertUsage:
        """Count which experts `request.tokens` use. Raise `ContextOverflow` or `EngineError`."""
        counter = self._expert_usage()
        self._check(request.tokens)
        with counter.counting():
            # Every token has logits, so that the last layer sees all of them, too.
            for _ in self._decode(request, first_logits=0):
                pass
            n_tokens, layers = counter.take()
        if n_tokens != len(request.tokens):
            raise EngineError(
                f"{n_tokens} tokens were seen going to experts, {len(request.tokens)} were computed.",
                hint="Try again.",
            )
        return ExpertUsage(id=request.id, n_tokens=n_tokens, layers=layers)

    def _decode(self, request: Evaluate | Collect | ReadExpertUsage, *, first_logits: int) -> Iterator[int]:
        """Decode piece by piece; yield for how many tokens of each there are logits now."""
        tokens = request.tokens
        n_past = self._reused(request)
        n_past = self._sequence.keep(n_past)
        try:
            for end, n_logits in _pieces(
                n_past,
                first_logits,
                len(tokens),
                n_batch=self._model.n_batch,
                n_outputs=self._model.n_outputs,
            ):
                self._sequence.feed(request.id, tokens[n_past:end], n_logits=n_logits)
                n_past = end
                yield n_logits
                self._emit(Progress(id=request.id, phase="prefill", fraction=end / len(tokens)))
        except Cancelled:
            raise EngineError("The measurement was cancelled.") from None
        except EngineError:
            self._sequence.forget()
            raise

    def _reused(self, request: Evaluate | Collect | ReadExpertUsage) -> int:
        if not isinstance(request, Evaluate) or not request.reuse_prefix:
            return 0
        # What has logits is decoded even when it is cached.
        return min(self._sequence.common(request.tokens), request.first_logits)

    def _check(self, tokens: Sequence[int]) -> None:
        n_vocab = self._model.vocab.facts.n_tokens
        if not tokens:
            raise EngineError("There are no tokens to measure on.")
        if not all(0 <= token < n_vocab for token in tokens):
            raise EngineError(f"A token is outside the vocabulary of {n_vocab} tokens.")
        if len(tokens) > self._model.n_ctx:
            raise ContextOverflow(
                f"There are {len(tokens)} tokens to measure on, the context holds {self._model.n_ctx}.",
                hint="A larger context is needed.",
            )

    def _collector(self) -> Collector:
        if self._model.collector is None:
            raise EngineError("The model was not loaded to collect activations.")
        return self._model.collector

    def _expert_usage(self) -> ExpertUsageCounter:
        if self._model.expert_usage is None:
            raise EngineError("The model was not loaded to watch its experts, or it has none.")
        return self._model.expert_usage


def _pieces(
    start: int, first_logits: int, n_tokens: int, *, n_batch: int, n_outputs: int
) -> Iterator[tuple[int, int]]:
    """Yield the end of each piece to decode, and for how many of its tokens logits are wanted.

    A piece is at most `n_batch` tokens, of which at most `n_outputs` have logits.
    """
    while start < n_tokens:
        quiet = max(0, first_logits - start)
        if quiet >= n_batch:
            end = start + n_batch
        else:
            end = start + min(n_batch, quiet + n_outputs, n_tokens - start)
        yield end, max(0, end - max(start, first_logits))
        start = end
