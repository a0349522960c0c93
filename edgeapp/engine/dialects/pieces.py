"""What a parser makes of an answer's text: text of a channel, and pieces of tool calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from edgeapp.protocol import Channel


class TextPart(msgspec.Struct, frozen=True):
    """Text to show in a channel."""

    channel: Channel
    text: str


class CallPiece(msgspec.Struct, frozen=True):
    """A `name` begins a call; `arguments` continues the call that was begun last."""

    name: str = ""
    arguments: str = ""


Piece = TextPart | CallPiece


class Reading(msgspec.Struct, frozen=True):
    """What a call reader got out of the text so far.

    `rest` is None while it wants more; else it is the text behind the call. `text` is what turned out to be
    no call.
    """

    pieces: tuple[CallPiece, ...] = ()
    text: str = ""
    rest: str | None = None
