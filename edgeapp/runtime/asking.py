"""Ask a worker about text, and manage its adapters: the requests that one event answers.

Who talks to a model as a program (server, tools) uses these; a chat needs none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeapp.cleantext import clean
from edgeapp.protocol import (
    AdapterLoaded,
    AdapterUnloaded,
    CountTokens,
    Detokenize,
    Embed,
    Embeddings,
    LoadAdapter,
    Text,
    TokenCount,
    UnloadAdapter,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgeapp.protocol import Message, Pooling, Tool
    from edgeapp.runtime.worker_client import WorkerClient

TEXTS_AT_ONCE = 32
"""Of how many texts one answer holds the vectors: its line may have 16 MiB."""


async def embed(
    client: WorkerClient, texts: Sequence[str], *, pooling: Pooling = "auto", normalize: bool = True
) -> Embeddings:
    """Return a vector for each of `texts`, of which there may be any number. Raise `EdgeappError`."""
    vectors: list[tuple[float, ...]] = []
    n_tokens = 0
    for start in range(0, max(1, len(texts)), TEXTS_AT_ONCE):
        some = tuple(texts[start : start + TEXTS_AT_ONCE])
        answer = await client.ask(Embed(texts=some, pooling=pooling, normalize=normalize), Embeddings)
        vectors += answer.vectors
        n_tokens += answer.n_tokens
    return Embeddings(vectors=tuple(vectors), n_tokens=n_tokens)


async def detokenize(client: WorkerClient, tokens: Sequence[int], *, special: bool = False) -> str:
    """Return the text of `tokens`, cleaned; `special` spells control tokens out. Raise `EdgeappError`."""
    return clean((await client.ask(Detokenize(tokens=tuple(tokens), special=special), Text)).text)


async def count_tokens(
    client: WorkerClient,
    messages: Sequence[Message],
    *,
    tools: Sequence[Tool] = (),
    template_options: Mapping[str, Any] | None = None,
) -> int:
    """Return how many tokens the prompt of this conversation has. Raise `EdgeappError`."""
    request = CountTokens(
        messages=tuple(messages), tools=tuple(tools), template_options=dict(template_options or {})
    )
    return (await client.ask(request, TokenCount)).n_tokens


async def load_adapter(client: WorkerClient, name: str, path: Path) -> int:
    """Load the LoRA adapter at `path` beside the model; return how many weights it changes.

    Until the worker ends, `Generate` requests can use it by `name`. Raise `EdgeappError`.
    """
    request = LoadAdapter(name=name, path=str(path.absolute()))  # noqa: ASYNC240 - touches no disk
    return (await client.ask(request, AdapterLoaded)).n_tensors


async def unload_adapter(client: WorkerClient, name: str) -> None:
    """Free an adapter's memory. Raise `EdgeappError`, also while a running answer uses it."""
    await client.ask(UnloadAdapter(name=name), AdapterUnloaded)
