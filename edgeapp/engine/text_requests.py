"""Answer the requests about text: count it, cut it, join it, embed it. Knows no queue and no pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.errors import UsageError
from edgeapp.protocol import Embeddings, Text, Tokens

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from edgeapp.engine.embedding import Embedder
    from edgeapp.engine.model import Vocab
    from edgeapp.protocol import Detokenize, Embed, Tokenize


def tokenize(vocab: Vocab, request: Tokenize) -> Tokens:
    ids = vocab.tokenize(request.text, add_special=request.add_special, parse_special=request.parse_special)
    return Tokens(id=request.id, ids=tuple(ids))


def detokenize(vocab: Vocab, request: Detokenize) -> Text:
    """Return the tokens' bytes as text, with U+FFFD for what is not UTF-8.

    Raise `UsageError` for a number that is no token.
    """
    _check_tokens(request.tokens, vocab.facts.n_tokens)
    data = b"".join(vocab.piece(token, special=request.special) for token in request.tokens)
    return Text(id=request.id, text=data.decode("utf-8", "replace"))


def embed(vocab: Vocab, embedder: Embedder, request: Embed) -> Generator[None, None, Embeddings]:
    """Yield after every decode; return the vectors. Errors are those of `Embedder.embed`.

    Control strings in a text are text; BOS and EOS are added where the vocabulary wants them.
    """
    _check_texts(request.texts)
    tokens = [vocab.tokenize(text, add_special=True, parse_special=False) for text in request.texts]
    vectors = yield from embedder.embed(tokens, pooling=request.pooling, normalize=request.normalize)
    return Embeddings(id=request.id, vectors=vectors, n_tokens=sum(map(len, tokens)))


def _check_tokens(tokens: Sequence[int], n_vocab: int) -> None:
    wrong = next((token for token in tokens if not 0 <= token < n_vocab), None)
    if wrong is not None:
        raise UsageError(
            f"{wrong} is not a token: the vocabulary has {n_vocab}, from 0 to {n_vocab - 1}.",
            hint="The tokens may belong to another model.",
        )


def _check_texts(texts: Sequence[str]) -> None:
    """Empty texts are found here: with BOS added they would have a token."""
    if not texts:
        raise UsageError("There is no text to embed.", hint="Give at least one.")
    if "" in texts:
        raise UsageError(f"Text {texts.index('') + 1} to embed is empty.", hint="Leave empty texts out.")
