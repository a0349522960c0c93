"""A conversation in the shape that chat templates read: OpenAI's messages and tools as plain values. Pure.

`Abilities` says what a template understands; what it does not is put into the text of a message.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from edgeapp.engine.neutral import neutralise, neutralise_json

if TYPE_CHECKING:
    from edgeapp.protocol import Message, Tool, ToolCall

Turn = dict[str, Any]
"""A message as a template gets it."""

NameCall = Callable[[str, int], str]
"""Makes the id of a call from its tool's name and its number in the conversation."""
WriteCalls = Callable[[Sequence["tuple[str, str]"]], str]
"""Writes calls (name and arguments as JSON text) as the model would."""


@dataclass(frozen=True, kw_only=True)
class CallShape:
    """How a template wants a turn with tool calls."""

    arguments: Literal["mapping", "text"]
    content: str | None
    """What stands for an empty text."""


@dataclass(frozen=True, kw_only=True)
class Abilities:
    """What a template does with what it is given."""

    system: bool = True
    tools: bool = True
    calls: CallShape | None = None
    """None: turns with tool calls are not understood."""
    parallel_calls: bool = True
    results: bool = True
    """Turns of role tool are written."""


class Speech:
    """Neutralises the texts of a conversation: control strings everywhere, user-defined ones but in answers.

    Templates look for `<think>` (user-defined in many models) in old answers, to drop old thoughts.
    """

    def __init__(self, control_texts: Sequence[str], user_defined_texts: Sequence[str]) -> None:
        self._control = control_texts
        self._special = (*control_texts, *user_defined_texts)

    def text(self, text: str, *, by_model: bool = False) -> str:
        return neutralise(text, self._control if by_model else self._special)

    def value(self, value: Any) -> Any:
        return neutralise_json(value, self._special)


def tool_values(tools: Sequence[Tool], speech: Speech) -> list[Any]:
    """Return tools in OpenAI's shape."""
    return [
        {
            "type": "function",
            "function": {
                "name": speech.text(tool.name),
                "description": speech.text(tool.description),
                "parameters": speech.value(_parameters(tool)),
            },
        }
        for tool in tools
    ]


def _parameters(tool: Tool) -> Any:
    parameters = msgspec.json.decode(tool.parameters)
    return parameters if isinstance(parameters, dict) and parameters else {"type": "object", "properties": {}}


def turns_of(
    messages: Sequence[Message],
    speech: Speech,
    abilities: Abilities,
    *,
    tools_text: str = "",
    name_call: NameCall | None = None,
    write_calls: WriteCalls | None = None,
    thinking_key: str = "reasoning_content",
) -> list[Turn]:
    """Return the messages as the template understands them.

    `tools_text` describes tools that the template cannot describe itself. A call's id is the conversation's
    own unless `name_call` makes one.
    """
    ids = _call_ids(messages, name_call)
    turns = [_turn(message, speech, abilities, ids, thinking_key) for message in messages]
    if abilities.calls is None:
        turns = [_spoken_calls(turn, write_calls or write_hermes) for turn in turns]
    elif not abilities.parallel_calls:
        turns = _one_call_each(turns)
    if not abilities.results:
        turns = _spoken_results(turns)
    if tools_text:
        turns = _with_system(turns, tools_text)
    if turns and turns[0]["role"] == "system" and not abilities.system:
        turns = _without_system(turns)
    return turns


def _turn(
    message: Message, speech: Speech, abilities: Abilities, ids: dict[str, str], thinking_key: str
) -> Turn:
    by_model = message.role == "assistant"
    turn: Turn = {"role": message.role, "content": speech.text(message.content, by_model=by_model)}
    if message.reasoning and by_model:
        turn[thinking_key] = speech.text(message.reasoning)
    if message.tool_calls and by_model:
        turn["tool_calls"] = [_call(call, speech, abilities, ids) for call in message.tool_calls]
        if not message.content and abilities.calls:
            turn["content"] = abilities.calls.content
        if thinking_key == "thinking" and message.reasoning and message.content:
            # gpt-oss refuses a call that comes with both.
            turn |= {"thinking": f"{turn['thinking']}\n\n{turn['content']}", "content": ""}
    if message.role == "tool":
        turn["tool_call_id"] = speech.text(ids.get(message.tool_call_id, message.tool_call_id))
        if message.name:
            turn["name"] = speech.text(message.name)
    return turn


def _call(call: ToolCall, speech: Speech, abilities: Abilities, ids: dict[str, str]) -> Turn:
    arguments: Any = speech.text(call.arguments or "{}")
    if abilities.calls and abilities.calls.arguments == "mapping":
        arguments = _mapping(call.arguments, speech)
    function = {"name": speech.text(call.name), "arguments": arguments}
    return {"id": speech.text(ids[call.id]), "type": "function", "function": function}


def _mapping(arguments: str, speech: Speech) -> Any:
    """Return the arguments of a call as a dict; text that is none stays visible under a key of its own."""
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        value = None
    return speech.value(value if isinstance(value, dict) else {"arguments": arguments})


def _call_ids(messages: Sequence[Message], name_call: NameCall | None) -> dict[str, str]:
    calls = [call for message in messages for call in message.tool_calls]
    return {call.id: name_call(call.name, at) if name_call else call.id for at, call in enumerate(calls)}


# What a template does not understand -----------------------------------------------------------------


def _spoken_calls(turn: Turn, write: WriteCalls) -> Turn:
    """Put the calls of a turn into its text."""
    if "tool_calls" not in turn:
        return turn
    functions = [call["function"] for call in turn["tool_calls"]]
    written = write([(function["name"], function["arguments"]) for function in functions])
    rest = {key: value for key, value in turn.items() if key != "tool_calls"}
    return {**rest, "content": "\n".join(filter(None, (turn["content"], written)))}


def write_hermes(calls: Sequence[tuple[str, str]]) -> str:
    objects = (f'{{"name": {json.dumps(name)}, "arguments": {arguments}}}' for name, arguments in calls)
    return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in objects)


def _one_call_each(turns: Sequence[Turn]) -> list[Turn]:
    """Write calls that were made at once one after the other, each followed by its result."""
    spread: list[Turn] = []
    at = 0
    while at < len(turns):
        turn = turns[at]
        at += 1
        calls = turn.get("tool_calls", ())
        if len(calls) < 2:  # noqa: PLR2004 - one call is what the template takes
            spread.append(turn)
            continue
        results = []
        while at < len(turns) and turns[at]["role"] == "tool":
            results.append(turns[at])
            at += 1
        spread += _pairs(turn, calls, results)
    return spread


def _pairs(turn: Turn, calls: Sequence[Turn], results: list[Turn]) -> list[Turn]:
    pairs: list[Turn] = []
    for number, call in enumerate(calls):
        rest = turn if number == 0 else {"role": turn["role"], "content": ""}
        pairs.append({**rest, "tool_calls": [call]})
        mine = [result for result in results if result["tool_call_id"] == call["id"]]
        pairs += mine
        results = [result for result in results if result not in mine]
    return pairs + results


def _spoken_results(turns: Sequence[Turn]) -> list[Turn]:
    """Make results of tools the user's words, neighbours in one message: often turns have to alternate."""
    spoken: list[Turn] = []
    follows_result = False
    for turn in turns:
        is_result = turn["role"] == "tool"
        content = f"<tool_response>\n{turn['content']}\n</tool_response>" if is_result else turn["content"]
        if follows_result and (is_result or turn["role"] == "user"):
            spoken[-1] = {"role": "user", "content": f"{spoken[-1]['content']}\n{content}"}
        else:
            spoken.append({"role": "user", "content": content} if is_result else turn)
        follows_result = is_result
    return spoken


def _with_system(turns: Sequence[Turn], text: str) -> list[Turn]:
    if turns and turns[0]["role"] == "system":
        return [{**turns[0], "content": f"{turns[0]['content']}\n\n{text}"}, *turns[1:]]
    return [{"role": "system", "content": text}, *turns]


def _without_system(turns: Sequence[Turn]) -> list[Turn]:
    """Put the system message before the first of the user's."""
    first, rest = turns[0], list(turns[1:])
    for at, turn in enumerate(rest):
        if turn["role"] == "user":
            rest[at] = {**turn, "content": f"{first['content']}\n\n{turn['content']}"}
            return rest
    return [{"role": "user", "content": first["content"]}, *rest]


def short_id(name: str, number: int) -> str:
    """Return an id of nine letters and digits, the only ones that Mistral's templates take."""
    return hashlib.sha256(f"{name}:{number}".encode()).hexdigest()[:9]


def numbered_id(name: str, number: int) -> str:
    """Return an id as Kimi K2 writes it."""
    return f"functions.{name}:{number}"
