"""The recorded templates, and tools and an answer's parts in a form that tests compare."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgeapp.engine.answer_stream import AnswerStream, Part, TextPart
from edgeapp.engine.templates import ChatTemplate
from edgeapp.protocol import Tool

if TYPE_CHECKING:
    from collections.abc import Iterable

HERE = Path(__file__).parent
ANSWERS: list[dict[str, Any]] = json.loads((HERE / "answers.json").read_text(encoding="utf-8"))
TEMPLATES = sorted(path.stem for path in (HERE / "templates").glob("*.jinja"))


def _tool(name: str, **types: str) -> Tool:
    properties = {key: {"type": type_, "description": key} for key, type_ in types.items()}
    schema = {"type": "object", "properties": properties}
    return Tool(name=name, description=name, parameters=msgspec.Raw(json.dumps(schema).encode()))


TOOLS = (
    _tool("special_function", arg1="integer"),
    _tool("special_function_with_opt", arg1="integer", arg2="integer"),
    _tool("python", code="string"),
    _tool("get_time", city="string"),
    _tool("todo_list", todos="array"),
    _tool("empty_args"),
)


@cache
def template_of(name: str) -> ChatTemplate:
    source = (HERE / "templates" / f"{name}.jinja").read_text(encoding="utf-8")
    return ChatTemplate(source, bos_text="<s>", eos_text="</s>")


def feed(stream: AnswerStream, pieces: Iterable[bytes]) -> dict[str, Any]:
    """Return the whole text of each channel, and the calls with their arguments parsed."""
    texts = {"reasoning": "", "answer": ""}
    calls: dict[int, list[str]] = {}
    parts: list[Part] = [part for piece in pieces for part in stream.push(piece)]
    for part in parts + stream.finish():
        if isinstance(part, TextPart):
            texts[part.channel] += part.text
        else:
            assert bool(part.name) == bool(part.call_id) == (part.index not in calls)
            calls.setdefault(part.index, [part.name, ""])[1] += part.arguments
    assert list(calls) == list(range(len(calls)))
    assert stream.has_tool_calls == bool(calls)
    return {**texts, "calls": [[name, json.loads(arguments)] for name, arguments in calls.values()]}
