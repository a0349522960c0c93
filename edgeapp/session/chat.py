"""A conversation: turns so far + an engine → the stream of events that every front end shows.

Knows no terminal, no HTTP and no file. The user's message and whatever arrived of the answer stay in
`turns`, however the answer ended.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from edgeapp.protocol import AdapterUse, Drafting, Generate, Grammar, Message, Sampling
from edgeapp.session.holdings import Holdings
from edgeapp.session.shorten import n_too_many, summary_of
from edgeapp.session.turns import Turn, absorb, alternating, is_taken_back

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from edgeapp.runtime.client import EngineClient, Generation, GenerationEvent


@dataclass(frozen=True, kw_only=True)
class ChatSettings:
    """What stays the same from message to message."""

    system: str = ""
    sampling: Sampling
    max_tokens: int = 0
    stop: tuple[str, ...] = ()
    grammar: Grammar | None = None
    """What every answer must match."""
    adapters: tuple[AdapterUse, ...] = ()
    template_options: Mapping[str, Any] = field(default_factory=dict)
    drafting: Drafting = field(default_factory=Drafting)
    logprobs: int = -1


class Onlooker(Protocol):
    """Who wants to know of every answer: `begin` just before it is asked for, then all its events.

    `reset` says that another conversation begins.
    """

    def begin(self, text: str) -> None: ...

    def observe(self, event: GenerationEvent) -> None: ...

    def reset(self) -> None: ...


class ChatSession:
    """One chat with one engine; one answer at a time."""

    def __init__(
        self, client: EngineClient, settings: ChatSettings, *, onlooker: Onlooker | None = None
    ) -> None:
        self._client = client
        self.settings = settings
        self._generation: Generation | None = None
        self.holdings = Holdings(client)
        self._onlooker = onlooker
        self.turns: list[Turn] = []
        self.summary = ""
        """What the model gets in place of turns that are no longer sent."""

    @property
    def busy(self) -> bool:
        return self._generation is not None

    def reset(self) -> None:
        """Forget the conversation. A running answer must have been stopped before."""
        self.turns.clear()
        self.summary = ""
        if self._onlooker is not None:
            self._onlooker.reset()

    def stop(self) -> None:
        """Ask the running answer, if any, to end; its stream finishes with `Done`."""
        if self._generation is not None:
            self._generation.cancel()

    async def release(self) -> None:
        """Free the engine's memory; the next message loads it again. A running answer ends as stopped."""
        self.stop()
        await self._client.release()

    @property
    def is_released(self) -> bool:
        return self._client.is_released

    async def send(self, text: str) -> AsyncIterator[GenerationEvent]:
        """Append the user's message and stream the answer; the last event is `Done` or `Failed`."""
        self.turns.append(Turn(role="user", text=text))
        request = Generate(
            messages=self._messages(self._sent()),
            sampling=self.settings.sampling,
            max_tokens=self.settings.max_tokens,
            stop=self.settings.stop,
            grammar=self.settings.grammar,
            adapters=self.settings.adapters,
            template_options=dict(self.settings.template_options),
            drafting=self.settings.drafting,
            logprobs=self.settings.logprobs,
            n_prefix_messages=1 if self.settings.system else 0,
        )
        answer = Turn(role="assistant", text="", status="failed")
        self.turns.append(answer)
        if self._onlooker is not None:
            self._onlooker.begin(text)
        self._generation = self._client.generate(request)
        try:
            async for event in self._generation:
                if self._onlooker is not None:
                    self._onlooker.observe(event)
                answer = absorb(answer, event)
                self.turns[-1] = answer
                if not answer.text and is_taken_back(event):
                    self.turns[-2] = replace(self.turns[-2], status="failed")
                yield event
        finally:
            self._generation = None
            if not answer.text:
                self.turns.pop()

    # A conversation that is too long --------------------------------------------------------------------

    @property
    def unsent(self) -> str:
        """The last message, when it was too long or stopped before its answer began; else nothing."""
        last = self.turns[-1] if self.turns else None
        return last.text if last and (last.role, last.status) == ("user", "failed") else ""

    async def retry(self) -> AsyncIterator[GenerationEvent]:
        """Send the `unsent` message again."""
        text = self.turns.pop().text
        async for event in self.send(text):
            yield event

    async def trim(self) -> int:
        """Stop sending the oldest turns, so that the rest and an answer fit; return how many.

        Raise `ContextOverflow` when the last message does not fit even alone.
        """
        sent = self._sent()
        return self._leave_out(sent[: await n_too_many(self._client, sent, self._messages_with)])

    async def summarise(self) -> int:
        """Let the model sum up the oldest turns and send that in their place; return how many.

        Raise `EdgeappError` when it cannot be done; then all is as before.
        """
        sent = self._sent()
        oldest = sent[: await n_too_many(self._client, sent, self._messages_with)]
        if oldest:
            self.summary = await summary_of(self._client, oldest, before=self.summary)
        return self._leave_out(oldest)

    def _leave_out(self, turns: Sequence[Turn]) -> int:
        left_out = set(map(id, turns))
        self.turns = [replace(turn, is_sent=False) if id(turn) in left_out else turn for turn in self.turns]
        return len(turns)

    # What the model gets ---------------------------------------------------------------------------------

    def _sent(self) -> list[Turn]:
        return [turn for turn in self.turns if turn.is_sent]

    def _messages_with(self, turns: Sequence[Turn]) -> tuple[Message, ...]:
        """Return the messages of `turns`, the last one included although it was too long before."""
        return self._messages([*turns[:-1], replace(turns[-1], status="complete")])

    def _messages(self, turns: Sequence[Turn]) -> tuple[Message, ...]:
        system = [Message(role="system", content=self.settings.system)] if self.settings.system else []
        messages = list(alternating(turns))
        if self.summary and messages:
            # In the user's message, because not every template allows a system message.
            begin = f"(What we said before, in short: {self.summary})\n\n"
            messages[0] = Message(role=messages[0].role, content=begin + messages[0].content)
        return (*system, *messages)
