"""Walk through a constraint without a model: any allowed token may come next, so all of it gets visited."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from edgeapp.engine import bindings
from edgeapp.engine.bindings import ModelOptions
from edgeapp.engine.model import Vocab
from edgeapp.errors import EngineError, GrammarError

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator
    from pathlib import Path

    from edgeapp.engine.constraint import Constraint

_CLOSING = frozenset({b'"', b"}", b"]", b"a", b"b", b"0", b")"})


@contextmanager
def vocabulary(path: Path) -> Iterator[Vocab]:
    bindings.start()
    options = ModelOptions()
    handle = bindings.load_model(str(path), options, lambda _fraction: True)
    try:
        yield Vocab(bindings.get_vocab(handle))
    finally:
        bindings.free_model(handle)


def allowed(constraint: Constraint, vocab: Vocab) -> list[int]:
    bits = np.unpackbits(constraint._allowed_bits(), count=vocab.facts.n_tokens, bitorder="little")
    return [int(token) for token in np.flatnonzero(bits)]


def feed(constraint: Constraint, vocab: Vocab, text: str) -> bool:
    """Accept `text` byte by byte; False as soon as a byte is not allowed, which ends the constraint."""
    token_of = {vocab.piece(token): token for token in range(vocab.facts.n_tokens - 1, -1, -1)}
    try:
        for byte in text.encode():
            constraint.accept(token_of[bytes([byte])])
    except (EngineError, GrammarError):
        return False
    return True


def may_end(constraint: Constraint, vocab: Vocab) -> bool:
    return constraint.is_complete or bool(set(allowed(constraint, vocab)) & set(vocab.eog_tokens))


def random_answer(
    constraint: Constraint, vocab: Vocab, dice: random.Random, *, n_free: int = 30, n_most: int = 400
) -> str | None:
    """Return an answer that obeys, None when it has no end after `n_most` tokens.

    After `n_free` tokens it hurries to its end. A place where no token may come next is an error.
    """
    data = b""
    for step in range(n_most):
        if constraint.is_complete:
            return data.decode()
        tokens = allowed(constraint, vocab)
        assert tokens, f"nothing may follow {data!r}, but it is not complete"
        hurry = step > n_free
        if set(tokens) & set(vocab.eog_tokens) and (hurry or dice.random() < 0.3):
            return data.decode()
        closing = [token for token in tokens if vocab.piece(token) in _CLOSING]
        token = dice.choice(closing if closing and (hurry or dice.random() < 0.4) else tokens)
        constraint.accept(token)
        data += vocab.piece(token)
    return None
