"""Ask a worker which experts a text uses. Knows no file and no terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from edgeapp.errors import UnsupportedModel
from edgeapp.experts.usage import TextUsage, added
from edgeapp.protocol import ExpertUsage, ReadExpertUsage
from edgeapp.runtime.planning import planned_load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from edgeapp.protocol import LayerUsage, Load
    from edgeapp.runtime.worker_client import WorkerClient

_N_UBATCH = 256  # every token has logits here, and half of the usual number need half the memory


async def watching_load(path: Path, *, n_ctx: int, n_threads: int = 0) -> Load:
    """Return how the model at `path` is loaded so that its experts can be counted.

    Raise `ModelError` or `NotEnoughMemory`.
    """
    load = await planned_load(path, n_ctx=n_ctx, n_threads=n_threads)
    n_ubatch = min(_N_UBATCH, load.n_ctx)
    return msgspec.structs.replace(load, watch_experts=True, n_ubatch=n_ubatch, n_outputs=n_ubatch)


async def expert_usage(
    client: WorkerClient, tokens: Sequence[int], *, name: str, on_progress: Callable[[int], None]
) -> TextUsage:
    """Count the experts that `tokens` use, read as texts of one context each; `name` is the text's.

    Where the vocabulary wants a BOS token it takes the place of each context's first token. `on_progress`
    gets how many tokens are done. The client's `Load` must say `watch_experts`. Raise `EdgeappError`, for a
    dense model `UnsupportedModel`.
    """
    loaded = await client.load()
    if loaded.n_expert == 0:
        raise UnsupportedModel(
            "This model is dense: it has no experts whose use could be counted.",
            hint="`edgeapp inspect` says how many experts a model has.",
        )
    parts: list[tuple[LayerUsage, ...]] = []
    done = 0
    on_progress(done)
    for start in range(0, len(tokens), loaded.n_ctx):
        part = list(tokens[start : start + loaded.n_ctx])
        if loaded.bos is not None:
            part[0] = loaded.bos
        counted = await client.ask(ReadExpertUsage(tokens=tuple(part)), ExpertUsage)
        parts.append(counted.layers)
        done += counted.n_tokens
        on_progress(done)
    return TextUsage(name=name, n_tokens=done, layers=added(parts))
