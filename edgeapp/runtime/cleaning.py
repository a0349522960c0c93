"""Clean what a worker says, once, for every front end.

`Text` stays as it is: it answers programs that asked for the text of given tokens and need it exactly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from edgeapp.cleantext import clean, clean_line
from edgeapp.protocol import AnyEvent, Delta, Failed, Loaded, Notice, ToolCallDelta

if TYPE_CHECKING:
    from edgeapp.errors import EdgeappError

_MAX_SENTENCE_CHARS = 500


def cleaned(event: AnyEvent) -> AnyEvent:
    """Return `event` with all text that a person may see made safe for a terminal."""
    match event:
        case Delta(text=text):
            return replace(event, text=clean(text))
        case ToolCallDelta(call_id=call_id, name=name, arguments=arguments):
            return replace(
                event, call_id=clean_line(call_id), name=clean_line(name), arguments=clean(arguments)
            )
        case Failed(message=message, hint=hint):
            return replace(event, message=_sentence(message), hint=_sentence(hint))
        case Notice(message=message, hint=hint):
            return replace(event, message=_sentence(message), hint=_sentence(hint))
        case Loaded(model_desc=model_desc):
            return replace(event, model_desc=clean_line(model_desc))
        case _:
            return event


def failed(problem: EdgeappError) -> Failed:
    """Return the event that ends a generation with `problem`."""
    return Failed(code=problem.code, message=_sentence(problem.message), hint=_sentence(problem.hint))


def _sentence(text: str) -> str:
    return clean_line(text, max_chars=_MAX_SENTENCE_CHARS)
