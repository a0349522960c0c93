"""Render a conversation with the model's chat template.

Without a template, or with one that does not compile, ChatML is used and the caller says so. What a
template does with system messages, tools and calls is found out by trying it, once, when it first matters.
Text in a conversation cannot become a control token: see `edgeapp.engine.neutral`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from edgeapp.engine.dialects.choice import dialect_of
from edgeapp.engine.dialects.hermes import DESCRIBED
from edgeapp.engine.dialects.hermes import describe as describe_tools
from edgeapp.engine.neutral import MARK, neutralise
from edgeapp.engine.template_probe import abilities_of
from edgeapp.engine.template_sandbox import MAX_OUTPUT_CHARS, Program
from edgeapp.engine.template_turns import (
    Abilities,
    NameCall,
    Speech,
    numbered_id,
    short_id,
    tool_values,
    turns_of,
)
from edgeapp.errors import ContextOverflow, TemplateError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from edgeapp.engine.dialects import Dialect
    from edgeapp.protocol import Message, Tool

__all__ = ["CHATML", "MARK", "ChatTemplate", "Remark", "neutralise"]

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_RESERVED = frozenset(
    {
        "messages",
        "tools",
        "add_generation_prompt",
        "bos_token",
        "eos_token",
        "raise_exception",
        "strftime_now",
    }
)
"""No option may stand in for these."""

_SYNONYMS = {"enable_thinking": "thinking", "reasoning_effort": "reasoning_strength"}
"""Some templates know an option under another name (llama.cpp, common/jinja/caps.cpp)."""


@dataclass(frozen=True, kw_only=True)
class Remark:
    """Something the user should know about the template."""

    code: str
    message: str
    hint: str = ""


class ChatTemplate:
    """A compiled template. `origin` says where it came from, `warning` why ChatML had to stand in.

    `tool_use` is the template's variant for conversations with tools. `vocabulary` holds the texts of the
    model's special tokens; they tell that a model thinks whose template never mentions it.
    """

    def __init__(
        self,
        source: str | None,
        *,
        bos_text: str,
        eos_text: str,
        tool_use: str | None = None,
        vocabulary: Collection[str] = (),
    ) -> None:
        self.origin: Literal["gguf", "chatml"] = "gguf"
        self.warning = ""
        self._variables = {"bos_token": bos_text, "eos_token": eos_text}
        self._source = source if source is not None else tool_use or ""
        try:
            if not self._source:
                raise TemplateError("The model carries no chat template.")  # noqa: TRY301 - handled like the rest
            self._program = Program(self._source)
        except TemplateError as problem:
            self.origin, self._source, self._program = "chatml", CHATML, Program(CHATML)
            self.warning = f"ChatML is used instead of the model's chat template: {problem}"
        self._tool_source, self._tool_program = self._variant(tool_use)
        self._spoken = dialect_of(self._source, vocabulary)
        if self._tool_source != self._source:
            self._spoken = replace(self._spoken, tools=dialect_of(self._tool_source).tools)

    def _variant(self, source: str | None) -> tuple[str, Program]:
        """Return the template for conversations with tools: the variant, or the template itself."""
        if source and self.origin == "gguf":
            try:
                return source, Program(source)
            except TemplateError as problem:
                self.warning = f"The template's variant for tools is not used: {problem}"
        return self._source, self._program

    # What it can -----------------------------------------------------------------------------------------

    @cached_property
    def abilities(self) -> Abilities:
        """What the template understands in a conversation without tools."""
        return self._abilities_of(self._program)

    @cached_property
    def tool_abilities(self) -> Abilities:
        """What it understands in one with tools."""
        if self._tool_program is self._program and self._spoken.calls_tools:
            return self.abilities
        found = self._abilities_of(self._tool_program)
        if self._spoken.calls_tools:
            return found
        # Its calls could not be parsed, so the model is taught calls that can be.
        return replace(found, tools=False)

    def _abilities_of(self, program: Program) -> Abilities:
        return abilities_of(lambda variables: program.run({**self._variables, **variables}))

    @cached_property
    def has_own_tools(self) -> bool:
        """Whether the template describes tools itself, and writes calls in a format that is parsed."""
        return self._spoken.calls_tools and self.tool_abilities.tools

    @cached_property
    def _keeps_format(self) -> bool:
        """Whether calls are in the template's format, not in one that the model is taught."""
        can_describe = self._spoken.tools is not None and self._spoken.tools.describe is not None
        return self.has_own_tools or (can_describe and self.tool_abilities.calls is not None)

    @cached_property
    def dialect(self) -> Dialect:
        """How the model writes thoughts and tool calls."""
        return self._spoken if self._keeps_format else replace(self._spoken, tools=DESCRIBED)

    @property
    def thinks(self) -> bool:
        return self._spoken.thinks

    @cached_property
    def tool_remark(self) -> Remark | None:
        """What to say when tools are given to a model whose template knows none."""
        if self.has_own_tools:
            return None
        return Remark(
            code="tools_described",
            message="The model's chat template knows no tools: they are described in the system message.",
            hint="A model that was trained to call tools will do it better.",
        )

    # Rendering -------------------------------------------------------------------------------------------

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        options: Mapping[str, object] | None = None,
        control_texts: Sequence[str] = (),
        user_defined_texts: Sequence[str] = (),
        add_generation_prompt: bool = True,
    ) -> str:
        """Return the prompt, ready for an answer; `MARK` splits special strings found in messages and tools.

        `options` are variables of the template, such as `enable_thinking`.
        Raise `TemplateError` when the template refuses the conversation or exceeds a limit, `ContextOverflow`
        for millions of characters.
        """
        _check_length(messages, tools)
        try:
            speech = Speech(control_texts, user_defined_texts)
            variables = self._conversation(messages, tools, speech)
            variables |= _options(options or {}, speech)
            variables |= self._variables | {"add_generation_prompt": add_generation_prompt}
            program = self._tool_program if tools and self.has_own_tools else self._program
            text = program.run(variables)
        except TemplateError:
            raise
        except Exception as problem:  # a template can raise anything
            raise TemplateError(
                f"The model's chat template refused the conversation: {str(problem).rstrip('.')}.",
                hint="It may not allow a system message: try without --system."
                if messages[:1] and messages[0].role == "system"
                else "Start a new chat.",
            ) from problem
        return self._spoken.mended(text) if add_generation_prompt else text

    def _conversation(
        self, messages: Sequence[Message], tools: Sequence[Tool], speech: Speech
    ) -> dict[str, Any]:
        """Return the variables `messages` and `tools`."""
        values = tool_values(tools, speech)
        own = values if values and self.has_own_tools else []
        format_ = self._spoken.tools if self._keeps_format else None
        describe = (format_.describe if format_ else None) or describe_tools
        turns = turns_of(
            messages,
            speech,
            self._needed_abilities(messages, tools),
            tools_text="" if own or not values else describe(values),
            name_call=self._name_call,
            write_calls=format_.write if format_ else None,
            thinking_key="thinking" if "message.thinking" in self._source else "reasoning_content",
        )
        return {"messages": turns, "tools": own} if own else {"messages": turns}

    def _needed_abilities(self, messages: Sequence[Message], tools: Sequence[Tool]) -> Abilities:
        """Return the template's abilities, without trying it for a conversation that is plain anyway."""
        has_calls = any(message.tool_calls or message.role == "tool" for message in messages)
        if not tools and not has_calls:
            return self.abilities if messages[:1] and messages[0].role == "system" else Abilities()
        if not self._keeps_format:
            return replace(self.abilities, calls=None, results=False)
        return self.tool_abilities if tools else self.abilities

    @property
    def _name_call(self) -> NameCall | None:
        if "length != 9" in self._tool_source:
            return short_id
        tools = self._spoken.tools
        return numbered_id if tools is not None and tools.name == "kimi" else None


def _options(options: Mapping[str, object], speech: Speech) -> dict[str, object]:
    """Return the options that may be set, under all their names."""
    allowed = {name: speech.value(value) for name, value in options.items() if name not in _RESERVED}
    synonyms = {_SYNONYMS[name]: value for name, value in allowed.items() if name in _SYNONYMS}
    return synonyms | allowed


def _check_length(messages: Sequence[Message], tools: Sequence[Tool]) -> None:
    n_chars = sum(
        len(m.content) + len(m.reasoning) + sum(len(call.arguments) for call in m.tool_calls)
        for m in messages
    )
    n_chars += sum(len(tool.description) + len(bytes(tool.parameters)) for tool in tools)
    if n_chars > MAX_OUTPUT_CHARS // 2:
        raise ContextOverflow(
            f"The conversation has {n_chars} characters, more than any context holds.",
            hint="Send less text.",
        )
