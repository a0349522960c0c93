"""Measure how fast a loaded model reads a prompt and writes an answer. Knows no file and no terminal.

Each repeat reads a passage that no other repeat has read, so that nothing of it is still in the KV cache, and
then writes; so reading and writing alternate, and a machine that slows down slows both.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from edgeapp.errors import UsageError, from_code
from edgeapp.protocol import Done, Drafting, Failed, Generate, Sampling
from edgeapp.runtime.asking import detokenize
from edgeapp.runtime.measuring import tokenize_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgeapp.runtime.client import EngineClient
    from edgeapp.runtime.worker_client import WorkerClient

DEFAULT_PROMPT_TOKENS, DEFAULT_DECODE_TOKENS = 512, 128  # llama-bench's pp512 and tg128
DEFAULT_REPEATS = 5  # as llama-bench
_WARM_UP_TOKENS = 8
SPARE_TOKENS = 64
"""A passage's text can have some tokens more than those it was cut from, and BOS."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Tokens per second: the median of the repeats, the slowest and the fastest."""

    median_tps: float
    min_tps: float
    max_tps: float


@dataclass(frozen=True, kw_only=True)
class Speed:
    """`n_prompt_tokens` is how many tokens a passage really had, in the median."""

    prefill: Rate
    decode: Rate
    ttft_s: float
    n_prompt_tokens: int
    n_decode_tokens: int
    n_repeats: int


def check_room(n_ctx: int, *, n_prompt: int, n_decode: int) -> None:
    """Raise `UsageError` when a passage and an answer do not fit into the context."""
    if n_prompt + n_decode + SPARE_TOKENS > n_ctx:
        raise UsageError(
            f"{n_prompt} tokens to read and {n_decode} to write do not fit into the context of {n_ctx}.",
            hint=f"--prompt {max(1, (n_ctx - SPARE_TOKENS) // 2)} --decode {max(1, n_ctx // 4)} would fit.",
        )


async def measure_speed(
    client: WorkerClient,
    text: str,
    *,
    n_prompt: int = DEFAULT_PROMPT_TOKENS,
    n_decode: int = DEFAULT_DECODE_TOKENS,
    n_repeats: int = DEFAULT_REPEATS,
    on_step: Callable[[], None] = lambda: None,
) -> Speed:
    """Read passages of `text` and write greedily, after one repeat that does not count.

    `on_step` is called after each of the `n_repeats` + 1 answers. Raise `UsageError` when the context is too
    small, or what the engine raises.
    """
    check_room((await client.load()).n_ctx, n_prompt=n_prompt, n_decode=n_decode)
    parts = await prompts(client, text, n_tokens=n_prompt, count=n_repeats + 1)
    await read_and_write(client, parts[0], min(n_decode, _WARM_UP_TOKENS))
    on_step()
    answers: list[Done] = []
    for part in parts[1:]:
        answers.append(await read_and_write(client, part, n_decode))
        on_step()
    return Speed(
        prefill=_rate([done.timings.prompt_tps for done in answers]),
        decode=_rate([done.timings.decode_tps for done in answers]),
        ttft_s=median(done.timings.ttft_s for done in answers),
        n_prompt_tokens=round(median(done.usage.prompt_tokens for done in answers)),
        n_decode_tokens=n_decode,
        n_repeats=n_repeats,
    )


async def prompts(client: WorkerClient, text: str, *, n_tokens: int, count: int) -> list[str]:
    """Return `count` passages of `text` with about `n_tokens` tokens of the client's model."""
    tokens = await tokenize_text(client, text, max_tokens=(n_tokens + 1) * count)
    return [await detokenize(client, part) for part in passages(tokens, n_tokens=n_tokens, count=count)]


def passages(tokens: Sequence[int], *, n_tokens: int, count: int) -> list[Sequence[int]]:
    """Return `count` passages of `n_tokens` tokens with different beginnings; a short text is repeated."""
    # One token more than a passage: in a repeated text no two passages begin at the same place.
    stride = n_tokens + 1
    long = list(tokens) * -(-stride * count // len(tokens))
    return [long[start : start + n_tokens] for start in range(0, stride * count, stride)]


async def read_and_write(client: EngineClient, prompt: str, n_tokens: int) -> Done:
    """Read `prompt` and write `n_tokens` greedily, without drafts. Raise what the engine reports."""
    request = Generate(
        prompt=prompt,
        sampling=Sampling(temp=0),
        max_tokens=n_tokens,
        ignore_eos=True,
        drafting=Drafting(mode="off"),
    )
    async for event in client.generate(request):
        if isinstance(event, Done):
            return event
        if isinstance(event, Failed):
            raise from_code(event.code, event.message, event.hint)
    raise AssertionError  # a generation always ends with Done or Failed


def _rate(rates: Sequence[float]) -> Rate:
    return Rate(median_tps=median(rates), min_tps=min(rates), max_tps=max(rates))
