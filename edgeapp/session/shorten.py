"""Make a conversation fit again: leave the oldest turns out, or put a summary in their place.

Whoever shows the conversation decides and says so: nothing here happens by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.errors import ContextOverflow, EngineError, from_code
from edgeapp.protocol import Delta, Failed, Generate, Message, Sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgeapp.runtime.client import EngineClient
    from edgeapp.session.turns import Turn

ANSWER_TOKENS = 1024
"""Room that is kept free for an answer; at most a quarter of the context."""
SUMMARY_TOKENS = 256
"""Longest summary; at most a quarter of the context."""


async def n_too_many(
    client: EngineClient, turns: Sequence[Turn], messages_of: Callable[[Sequence[Turn]], Sequence[Message]]
) -> int:
    """Return how many of the oldest `turns` have to go: whole exchanges, as few as possible.

    Raise `ContextOverflow` when the last message does not fit even alone.
    """
    n_ctx = (await client.load()).n_ctx
    room = n_ctx - min(n_ctx // 4, ANSWER_TOKENS)
    for start in (index for index, turn in enumerate(turns) if turn.role == "user"):
        if await client.count_tokens(messages_of(turns[start:])) <= room:
            return start
    raise ContextOverflow(
        f"The last message alone does not fit into the context of {n_ctx} tokens.",
        n_ctx=n_ctx,
        hint="Shorten it, or use a larger --ctx.",
    )


async def summary_of(client: EngineClient, turns: Sequence[Turn], *, before: str) -> str:
    """Return the model's summary of `before` and `turns`, in as many steps as the context demands.

    Raise `EdgeappError`.
    """
    text, told = before, [f"{turn.role}: {turn.text}" for turn in turns if turn.text]
    while told:
        text, told = await _next_step(client, text, told)
    return text


async def _next_step(client: EngineClient, before: str, told: list[str]) -> tuple[str, list[str]]:
    """Sum up as much of `told` as fits; return that and the rest."""
    n_ctx = (await client.load()).n_ctx
    for n_parts in range(len(told), 0, -1):
        question = _question("\n\n".join([before, *told[:n_parts]]).strip())
        n_summary = min(n_ctx // 4, SUMMARY_TOKENS)
        if await client.count_tokens((question,)) <= n_ctx - n_summary:
            return await _short_answer(client, question, max_tokens=n_summary), told[n_parts:]
    raise ContextOverflow("A message is too long to be summed up.", n_ctx=n_ctx, hint="Leave it out instead.")


def _question(text: str) -> Message:
    ask = "Sum up this conversation in a few sentences. Keep names, numbers, decisions and open questions."
    return Message(role="user", content=f"{ask}\n\n{text}")


async def _short_answer(client: EngineClient, question: Message, *, max_tokens: int) -> str:
    text = ""
    request = Generate(
        messages=(question,),
        sampling=Sampling(temp=0),
        max_tokens=max_tokens,
        # The few tokens are for the summary.
        template_options={"enable_thinking": False},
    )
    async for event in client.generate(request):
        match event:
            case Delta(text=piece, channel="answer"):
                text += piece
            case Failed():
                raise from_code(event.code, event.message, event.hint)
            case _:
                pass
    if not text.strip():
        raise EngineError("The model wrote no summary.", hint="Leave the oldest messages out instead.")
    return text.strip()
