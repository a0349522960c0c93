"""Requests and events as lines of bytes."""

from __future__ import annotations

import msgspec

from edgeapp.protocol.events import AnyEvent, Event
from edgeapp.protocol.requests import AnyRequest, Request

PROTOCOL_VERSION = 4

_encoder = msgspec.json.Encoder()
_requests: msgspec.json.Decoder[AnyRequest] = msgspec.json.Decoder(AnyRequest)
_events: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


def encode(message: Request | Event) -> bytes:
    """Return one line, newline included."""
    return _encoder.encode(message) + b"\n"


def decode_request(line: bytes) -> AnyRequest:
    """Raise `msgspec.ValidationError` or `msgspec.DecodeError` for anything that is not a request."""
    return _requests.decode(line)


def decode_event(line: bytes) -> AnyEvent:
    """Raise `msgspec.ValidationError` or `msgspec.DecodeError` for anything that is not an event."""
    return _events.decode(line)
