"""Log probabilities as items of OpenAI's `logprobs.content` (API reference, chat completions). Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeapp.cleantext import clean

if TYPE_CHECKING:
    from edgeapp.protocol import TokenLogprob


def content_item(logprob: TokenLogprob) -> dict[str, Any]:
    """Return one token with its likeliest alternatives, best first."""
    return {**_token(logprob), "top": [_token(alternative) for alternative in logprob.top]}


def _token(logprob: TokenLogprob) -> dict[str, Any]:
    """The text is for people; a token may be a part of a character, so `bytes` has it exactly."""
    text = clean(logprob.data.decode("utf-8", "replace"))
    return {"token": text, "bytes": list(logprob.data), "logprob": logprob.logprob}
