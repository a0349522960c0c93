"""What a submitted line means: a message for the model, or one of the chat's own commands. Pure text.

Only a single token that looks exactly like `/word` is a command, so `/etc/passwd is what?` is a message,
and a space in front sends anything as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

CommandName = Literal["new", "trim", "summarise", "release", "vram", "help", "quit"]

_LOOKS_LIKE_COMMAND = re.compile(r"/[A-Za-z][A-Za-z0-9_-]*\s*")
_COMMANDS: dict[str, CommandName] = {
    "/new": "new",
    "/clear": "new",
    "/trim": "trim",
    "/summarise": "summarise",
    "/summarize": "summarise",
    "/release": "release",
    "/vram": "vram",
    "/help": "help",
    "/quit": "quit",
    "/exit": "quit",
    "/bye": "quit",
}

HELP = """\
/new        start a new chat       ctrl+n
/trim       send the oldest messages no longer, so that the rest fits
/summarise  send a summary in their place
/release    free the engine's memory now; the next message loads it again
/vram       show what the engine holds on the GPU and in RAM
/help       show this
/quit       leave, like /bye       ctrl+q, ctrl+d, or ctrl+c twice

enter       send                   shift+enter, alt+enter, ctrl+j: new line
esc         stop the answer        ctrl+c does too
up          recall your message    when the input is empty
ctrl+y      copy the last answer   page up, page down: scroll
ctrl+t      show the thoughts      or a click on one"""


@dataclass(frozen=True, kw_only=True)
class SendMessage:
    text: str


@dataclass(frozen=True, kw_only=True)
class Command:
    name: CommandName


@dataclass(frozen=True, kw_only=True)
class UnknownCommand:
    word: str


Submission: TypeAlias = SendMessage | Command | UnknownCommand


def parse(text: str) -> Submission | None:
    """Return what `text` asks for; None when there is nothing in it."""
    if not text.strip():
        return None
    if _LOOKS_LIKE_COMMAND.fullmatch(text):
        word = text.rstrip()
        name = _COMMANDS.get(word.lower())
        return Command(name=name) if name else UnknownCommand(word=word)
    return SendMessage(text=text.strip())
