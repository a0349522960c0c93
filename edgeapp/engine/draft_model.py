"""A second, smaller model that guesses what the large one will say, for `edgeapp.engine.drafting`.

It has its own weights and context and follows each sequence on its own: it takes in what was chosen and
forgets what was not. Knows no request and no sampler of the large model.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from edgeapp.engine import bindings
from edgeapp.engine.bindings import Batch, ContextHandle, ContextOptions, ModelOptions, SamplerHandle
from edgeapp.engine.drafting import HitRates
from edgeapp.engine.model import Vocab
from edgeapp.engine.prefix import common_length
from edgeapp.errors import UnsupportedModel, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_VOCAB_DIFFERENCE = 128  # llama.cpp common/speculative.cpp, SPEC_VOCAB_MAX_SIZE_DIFFERENCE: padding
N_CATCH_UP = 256
"""Most tokens that are taken in during one step, so that a long prompt does not hold up other answers."""
_N_COMPARED = 4096
_MAX_GUESSES = 16
_PRIOR = 0.7
_TIME_MEMORY = 0.1


class DraftModel:
    """A loaded draft model. `source` makes what a `Drafter` wants, one for each sequence of its context."""

    def __init__(self, context: ContextHandle, greedy: SamplerHandle, *, n_vocab: int) -> None:
        self._context = context
        self._greedy = greedy
        self._batch = Batch(N_CATCH_UP)
        self._cached: dict[int, list[int]] = {}
        self.n_vocab = n_vocab
        """Tokens from here on are unknown to it or to the large model."""
        self.rates = HitRates((_PRIOR,) * _MAX_GUESSES)
        self.token_s = 0.0
        """How long one guess takes."""

    def source(self, sequence: int) -> DraftModelSource:
        return DraftModelSource(self, sequence)

    def follow(self, sequence: int, tokens: Sequence[int]) -> bool:
        """Take in what is new in `tokens`, at most `N_CATCH_UP` at once, and say whether that was all.

        The last token is always computed, because its logits are wanted.
        """
        cached = self._cached.setdefault(sequence, [])
        n_keep = min(common_length(cached, tokens), len(tokens) - 1)
        if n_keep < len(cached):
            self._truncate(sequence, n_keep)
        new = tokens[n_keep : n_keep + N_CATCH_UP]
        return self._decode(sequence, new) and n_keep + len(new) == len(tokens)

    def guess(self, sequence: int, limit: int) -> list[int]:
        """Return up to `limit` tokens that are likeliest behind what `follow` has taken in."""
        started_s = time.perf_counter()
        guesses = [bindings.sample(self._greedy, self._context)]
        while len(guesses) < limit and guesses[-1] < self.n_vocab and self._decode(sequence, guesses[-1:]):
            guesses.append(bindings.sample(self._greedy, self._context))
        if len(guesses) > 1:
            self._note_time((time.perf_counter() - started_s) / (len(guesses) - 1))
        return [token for token in guesses if token < self.n_vocab]

    def warm_up(self) -> bool:
        """Page the weights in and measure a step; False when the model cannot forget a token."""
        self.follow(0, (0,))
        self.guess(0, 2)
        can_forget = bindings.kv_truncate(self._context, 0, 1)
        self._forget_all()
        return can_forget

    def _note_time(self, token_s: float) -> None:
        self.token_s += (token_s - self.token_s) * (_TIME_MEMORY if self.token_s else 1.0)

    def _truncate(self, sequence: int, n_keep: int) -> None:
        bindings.kv_truncate(self._context, sequence, n_keep)
        del self._cached[sequence][n_keep:]

    def _decode(self, sequence: int, tokens: Sequence[int]) -> bool:
        cached = self._cached.setdefault(sequence, [])
        self._batch.clear()
        self._batch.add(tokens, sequence=sequence, n_past=len(cached), n_logits=1)
        if self._batch.decode(self._context) != "ok":
            self._forget_all()  # full: what is still spoken of comes back
            return False
        cached.extend(tokens)
        return True

    def _forget_all(self) -> None:
        bindings.kv_clear(self._context)
        self._cached.clear()


class DraftModelSource:
    """Guesses for one sequence; a `Source`."""

    def __init__(self, model: DraftModel, sequence: int) -> None:
        self._model = model
        self._sequence = sequence
        self._tokens: list[int] = []
        self._is_known = True

    @property
    def token_s(self) -> float:
        return self._model.token_s

    def start(self, tokens: Sequence[int]) -> None:
        self._tokens.clear()
        self._is_known = True
        self._model.rates.doubt()
        self.extend(tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        self._tokens.extend(tokens)
        self._is_known = self._is_known and max(tokens, default=0) < self._model.n_vocab

    def chances(self, limit: int) -> list[float]:
        return [self._model.rates.chance(grade) for grade in range(min(limit, _MAX_GUESSES))]

    def draft(self, limit: int) -> list[int]:
        """Return up to `limit` guesses; none while a long prompt is still being taken in."""
        if limit <= 0 or not self._tokens or not self._is_known:
            return []
        if not self._model.follow(self._sequence, self._tokens):
            return []
        return self._model.guess(self._sequence, min(limit, _MAX_GUESSES))

    def checked(self, n_drafted: int, n_accepted: int) -> None:
        for grade in range(min(n_accepted + 1, n_drafted)):
            self._model.rates.learn(grade, is_right=grade < n_accepted)


@contextmanager
def load_draft_model(
    path: str,
    target: Vocab,
    *,
    n_kv: int,
    n_sequences: int,
    n_threads: int,
) -> Iterator[DraftModel]:
    """Load a model that drafts for one with the vocabulary `target`, on the CPU; free it afterwards.

    Raise `UsageError` when the vocabularies differ, `UnsupportedModel` when it cannot forget a rejected
    token, else what `bindings.load_model` raises.
    """
    with ExitStack() as stack:
        handle = bindings.load_model(path, ModelOptions(), lambda _fraction: True)
        stack.callback(bindings.free_model, handle)
        n_vocab = _shared_vocabulary(target, Vocab(bindings.get_vocab(handle)))
        context = bindings.new_context(
            handle,
            ContextOptions(
                n_ctx=n_kv,
                n_sequences=n_sequences,
                n_batch=N_CATCH_UP,
                n_ubatch=N_CATCH_UP,
                n_threads=n_threads,
                n_outputs=n_sequences,  # llama.cpp wants one for each
            ),
            abort=None,
        )
        stack.callback(bindings.free_context, context)
        greedy = bindings.sampler_chain([bindings.sampler_greedy()])
        stack.callback(bindings.free_sampler, greedy)
        model = DraftModel(context, greedy, n_vocab=n_vocab)
        if not model.warm_up():
            raise UnsupportedModel(
                "This draft model cannot forget single tokens (recurrent state).",
                hint="Choose a draft model with attention only.",
            )
        yield model


def _shared_vocabulary(target: Vocab, draft: Vocab) -> int:
    """Return how many tokens both know. Raise `UsageError` when they are not the same ones."""
    ours, theirs = target.facts, draft.facts
    n_shared = min(ours.n_tokens, theirs.n_tokens)
    if max(ours.n_tokens, theirs.n_tokens) - n_shared > MAX_VOCAB_DIFFERENCE:
        raise _other_vocabulary(f"it has {theirs.n_tokens} tokens, the model {ours.n_tokens}")
    if (ours.bos, ours.eos) != (theirs.bos, theirs.eos):
        raise _other_vocabulary("its tokens for the beginning and the end of a text are others")
    step = max(1, n_shared // _N_COMPARED)
    for token in range(0, n_shared, step):
        if target.text_of(token) != draft.text_of(token):
            raise _other_vocabulary(f"token {token} is another one")
    return n_shared


def _other_vocabulary(how: str) -> UsageError:
    return UsageError(
        f"The draft model has another vocabulary: {how}.",
        hint="A draft model must be a small model of the same family.",
    )
