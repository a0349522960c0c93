"""What a model family writes around its thoughts and its tool calls, as data for one parser.

Knows no token and no template; `edgeapp.engine.dialects.choice` picks one for a template.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from edgeapp.errors import UsageError
from edgeapp.protocol import Grammar, Tool

if TYPE_CHECKING:
    from edgeapp.engine.dialects.pieces import Piece, Reading


class CallReader(Protocol):
    """Reads one tool call, or one list of them, from the text behind an opening marker."""

    def read(self, text: str) -> Reading: ...

    def finish(self) -> Reading:
        """Say what the text so far amounts to when nothing follows."""
        ...


class Parser(Protocol):
    """Splits an answer's text into channels and calls, at whatever characters it arrives cut."""

    @property
    def in_answer(self) -> bool:
        """Whether the next character belongs to the answer, not to a thought."""
        ...

    def push(self, text: str) -> list[Piece]: ...

    def finish(self) -> list[Piece]: ...


OpenReader = Callable[[str, Sequence[Tool]], CallReader]
"""Makes the reader for what follows an opening marker (the first argument)."""


@dataclass(frozen=True, kw_only=True)
class ForcedCall:
    """`prefix` goes behind the prompt as if the model had written it; `grammar` rules what follows."""

    prefix: str
    grammar: Grammar | None = None


@dataclass(frozen=True, kw_only=True)
class Reasoning:
    """Markers around thoughts."""

    open: str
    close: str
    anywhere: bool = False
    """Thoughts may begin inside an answer too, because the marker is a control token."""
    silent: frozenset[str] = frozenset()
    """Markers around the answer that are not shown."""
    tokens: frozenset[str] = frozenset()
    """The tokens that the markers consist of, where they are not a token each."""
    is_plain: bool = False
    """The markers are ordinary text in the family's vocabulary."""


@dataclass(frozen=True, kw_only=True)
class ToolFormat:
    """How a family writes tool calls."""

    name: str
    openers: Mapping[str, OpenReader]
    bare: OpenReader | None = None
    """Reads a call without a marker: an answer that begins with `{`."""
    section: str = ""
    """Opens a section of calls. Not shown."""
    silent: frozenset[str] = frozenset()
    """Other markers around calls that are not shown."""
    inner: frozenset[str] = frozenset()
    """Markers inside a call, which a reader must see spelled out."""
    ends_reasoning: bool = False
    """A call may follow a thought that was never closed."""
    describe: Callable[[Sequence[Any]], str] | None = None
    """Makes tools (OpenAI's shape) known in a system message, for a template that writes only calls."""
    write: Callable[[Sequence[tuple[str, str]]], str] | None = None
    """Writes calls (name, arguments) for a template that passes an answer's text on but knows no calls."""
    mend: tuple[str, str] | None = None
    """A prompt that ends with the first text lacks the second."""
    force: Callable[[Sequence[Tool]], ForcedCall | None] = field(default=lambda _tools: None)


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """A reasoning family and a tool family together; either may be missing."""

    reasoning: Reasoning | None = None
    tools: ToolFormat | None = None

    @property
    def name(self) -> str:
        names = ("think" if self.reasoning else "", self.tools.name if self.tools else "")
        return "+".join(filter(None, names)) or "generic"

    @property
    def thinks(self) -> bool:
        return self.reasoning is not None

    @property
    def thought_tokens(self) -> frozenset[str]:
        """The markers of thoughts that are tokens of their own."""
        if not self.reasoning or self.reasoning.is_plain:
            return frozenset()
        return frozenset({self.reasoning.open, self.reasoning.close})

    @property
    def calls_tools(self) -> bool:
        return self.tools is not None

    @property
    def special_texts(self) -> frozenset[str]:
        """Texts of control tokens that the parser must see spelled out."""
        texts: set[str] = set()
        if self.reasoning:
            texts |= {self.reasoning.open, self.reasoning.close, *self.reasoning.silent}
            texts |= self.reasoning.tokens
        if self.tools:
            texts |= {*self.tools.openers, *self.tools.silent, *self.tools.inner, self.tools.section}
        return frozenset(texts - {""})

    def parser(self, *, prompt: str, tools: Sequence[Tool]) -> Parser | None:
        """Return a parser for the answer to `prompt`, or None where there is nothing to parse."""
        from edgeapp.engine.dialects.marker_parser import MarkerParser

        if not self.reasoning and not (self.tools and tools):
            return None
        return MarkerParser(
            reasoning=self.reasoning,
            format_=self.tools if tools else None,
            tools=tools,
            in_reasoning=self.starts_in_reasoning(prompt),
        )

    def starts_in_reasoning(self, prompt: str) -> bool:
        """Whether `prompt` ends with an opened thought."""
        return self.reasoning is not None and prompt.rstrip().endswith(self.reasoning.open.strip())

    def mended(self, prompt: str) -> str:
        """Return a rendered prompt with what the family's templates are known to forget at its end."""
        end, missing = (self.tools.mend if self.tools else None) or ("", "")
        return prompt + missing if prompt.endswith(end) else prompt

    def reasoning_prefix(self, prompt: str) -> str:
        """Return what opens a thought behind `prompt`; empty where it is open, or closed by the template.

        A grammar that rules the answer would forbid the model to open a thought itself.
        """
        if not self.reasoning or self.starts_in_reasoning(prompt):
            return ""
        is_closed = prompt.rstrip().endswith(self.reasoning.close.strip())
        return "" if is_closed else self.reasoning.open + "\n"

    def forced_call(self, tools: Sequence[Tool], choice: str, *, prompt: str = "") -> ForcedCall | None:
        """Return how to force a call for `choice` ("required" or a tool's name); None when it cannot be.

        A thought that `prompt` leaves open is closed first. Raise `UsageError` for a tool that is not there.
        """
        wanted = [tool for tool in tools if choice in {"required", tool.name}]
        if not wanted:
            raise UsageError(
                f"The answer has to call the tool {choice!r}, which is not among the {len(tools)} given.",
                hint="tool_choice is auto, none, required or the name of a given tool.",
            )
        forced = self._force(wanted)
        if forced and self.reasoning and self.starts_in_reasoning(prompt):
            return ForcedCall(prefix=f"{self.reasoning.close}\n\n{forced.prefix}", grammar=forced.grammar)
        return forced

    def _force(self, tools: Sequence[Tool]) -> ForcedCall | None:
        return self.tools.force(tools) if self.tools else None


GENERIC = Dialect()
