"""What one running engine tells the other programs of its user: plan, buffers, speed. Pure.

Holds names and figures, never a prompt or an answer.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from edgeapp.protocol import BufferUse, Delta, Device, Done, Failed, Loaded, Memory

STATUS_VERSION = 1

EngineState = Literal["loading", "ready", "answering", "released", "down"]
ExpertPlace = Literal["gpu", "partial", "ram"]
"""Where a layer's routed experts are computed: on the GPU, on both, from host memory."""


class EngineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes; tokens per second. Zeros and empty texts are not known."""

    version: int = STATUS_VERSION
    pid: int
    """Of the front end; `identity` tells it from a later process with the same number."""
    identity: str
    front_end: str
    """"chat", "run", "bench", …"""
    model: str
    plan: str = ""
    """The sentence that explains the placement."""
    device: str = ""
    state: EngineState = "loading"
    started_s: float
    """Unix time."""
    buffers: tuple[BufferUse, ...] = ()
    devices: tuple[Device, ...] = ()
    """As the engine last reported them."""
    expert_places: tuple[ExpertPlace, ...] = ()
    """One for each layer that has routed experts."""
    n_ctx: int = 0
    n_ctx_used: int = 0
    decode_tps: float = 0.0
    n_requests: int = 0


def after(status: EngineStatus, event: object) -> EngineStatus:
    """Return what `status` becomes with an event of the engine; other events change nothing."""
    replace = msgspec.structs.replace
    match event:
        case Loaded():
            return replace(status, state="ready", buffers=event.buffers, n_ctx=event.n_ctx, n_ctx_used=0)
        case Memory():
            return replace(status, devices=event.devices)
        case Delta():
            return replace(status, state="answering", n_ctx_used=event.n_ctx_used or status.n_ctx_used)
        case Done():
            return replace(
                status,
                state="ready",
                n_ctx=event.n_ctx,
                n_ctx_used=event.n_ctx_used,
                decode_tps=event.timings.decode_tps,
                n_requests=status.n_requests + 1,
            )
        case Failed():
            return replace(status, state="ready", decode_tps=0.0, n_requests=status.n_requests + 1)
        case _:
            return status
