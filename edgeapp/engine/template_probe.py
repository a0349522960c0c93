"""Find out what a chat template understands, by rendering small conversations and looking for their words.

The idea is llama.cpp's (common/jinja/caps.cpp); here the output is read, not the template's variables.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgeapp.engine.template_turns import Abilities, CallShape, Turn
from edgeapp.errors import TemplateError

Render = Callable[[Mapping[str, Any]], str]

_SYSTEM, _TOOL, _OTHER_TOOL, _KEY, _VALUE, _RESULT = (
    f"probe{word}" for word in ("system", "tool", "other", "key", "value", "result")
)
_USER: Turn = {"role": "user", "content": "probeuser"}
_SHAPES = tuple(
    CallShape(arguments=arguments, content=content)
    for content in ("", None)
    for arguments in ("mapping", "text")
)


def abilities_of(render: Render) -> Abilities:
    """Try a template; one that refuses everything, or exceeds a limit, is taken for able."""
    try:
        return _tried(render)
    except TemplateError:
        return Abilities()


def _tried(render: Render) -> Abilities:
    if not _try(render, [_USER]):
        return Abilities()
    shape = next((shape for shape in _SHAPES if _writes_calls(render, shape)), None)
    return Abilities(
        system=_SYSTEM in _try(render, [{"role": "system", "content": _SYSTEM}, _USER]),
        tools=_TOOL in _try(render, [_USER], tools=(_TOOL,)),
        calls=shape,
        parallel_calls=shape is not None and _writes_two_calls(render, shape),
        results=_RESULT in _try(render, _call_turns(shape, (_TOOL,))) if shape else _writes_results(render),
    )


def _try(render: Render, turns: Sequence[Turn], *, tools: Sequence[str] = ()) -> str:
    """Return what the template writes, nothing where it refuses."""
    variables: dict[str, Any] = {"messages": list(turns), "add_generation_prompt": True}
    if tools:
        variables["tools"] = [_tool(name) for name in tools]
    try:
        return render(variables)
    except TemplateError:
        raise
    except Exception:  # noqa: BLE001 - a template can raise anything
        return ""


def _tool(name: str) -> Any:
    properties = {_KEY: {"type": "string", "description": "A key."}}
    parameters = {"type": "object", "properties": properties, "required": [_KEY]}
    return {
        "type": "function",
        "function": {"name": name, "description": "A tool.", "parameters": parameters},
    }


def _call_turns(shape: CallShape, names: Sequence[str]) -> list[Turn]:
    arguments: Any = {_KEY: _VALUE}
    if shape.arguments == "text":
        arguments = json.dumps(arguments)
    ids = [f"probe000{number}" for number in range(len(names))]
    calls = [
        {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        for call_id, name in zip(ids, names, strict=True)
    ]
    results = [
        {"role": "tool", "content": _RESULT, "tool_call_id": call_id, "name": name}
        for call_id, name in zip(ids, names, strict=True)
    ]
    return [_USER, {"role": "assistant", "content": shape.content, "tool_calls": calls}, *results]


def _writes_calls(render: Render, shape: CallShape) -> bool:
    """Whether the call appears as JSON or in tags: not as Python's dict, nor as JSON inside a JSON string."""
    text = _try(render, _call_turns(shape, (_TOOL,)), tools=(_TOOL,))
    begin = text.rfind(_VALUE)
    before = text[:begin]
    return begin >= 0 and not before.endswith((f"'{_KEY}': '", f'\\"{_KEY}\\": \\"'))


def _writes_two_calls(render: Render, shape: CallShape) -> bool:
    text = _try(render, _call_turns(shape, (_TOOL, _OTHER_TOOL)), tools=(_TOOL,))
    return text.count(_VALUE) > 1 and _OTHER_TOOL in text


def _writes_results(render: Render) -> bool:
    turns = [_USER, {"role": "assistant", "content": "probe"}, {"role": "tool", "content": _RESULT}]
    return _RESULT in _try(render, turns)
