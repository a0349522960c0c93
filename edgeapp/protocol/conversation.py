"""A conversation as a model gets it: messages, tools and tool calls, in OpenAI's words."""

from __future__ import annotations

from typing import Literal

import msgspec

Role = Literal["system", "user", "assistant", "tool"]


class ToolCall(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model wants a tool called. `arguments` is the text of a JSON object, as the model wrote it."""

    id: str
    name: str
    arguments: str


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One turn of a conversation."""

    role: Role
    content: str
    reasoning: str = ""
    """What an assistant thought before it answered; most templates drop it from older turns."""
    tool_calls: tuple[ToolCall, ...] = ()
    """What an assistant asked for."""
    tool_call_id: str = ""
    """Which call a message of role `tool` answers."""
    name: str = ""
    """The tool whose result this is."""


class Tool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A function that the model may call. `parameters` is a JSON schema of its arguments."""

    name: str
    description: str = ""
    parameters: msgspec.Raw = msgspec.Raw(b"{}")
