"""What the engine holds, in words and figures for the chat. Pure: knows no widget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.cleantext import clean_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.protocol import BufferUse
    from edgeapp.runtime.client import Released

_MAX_NAME_CHARS = 30


def held(buffers: Sequence[BufferUse], *, is_released: bool) -> str:
    """Return a line for each device with what the engine holds there."""
    if is_released:
        return "The engine is released and holds nothing; the next message loads it again."
    if not buffers:
        return "The engine holds nothing yet."
    width = max(len(_name(use)) for use in buffers)
    return "\n".join(_line(use, width) for use in buffers)


def released(event: Released) -> str:
    """Say that the memory is free now, and what of the conversation is kept."""
    why = "Released after a while without a message" if event.why == "idle" else "Released"
    kept = "The next message loads the engine again and goes on with the conversation"
    if not event.n_conversations:
        return f"{why}: all memory is free. {kept}, which it reads again."
    return f"{why}: all memory is free. {kept}, whose state is kept."


def _line(use: BufferUse, width: int) -> str:
    parts = (
        f"weights {_mib(use.weights_bytes)}",
        f"KV cache {_mib(use.kv_bytes)}",
        f"compute {_mib(use.compute_bytes)}",
        f"together {_mib(use.weights_bytes + use.kv_bytes + use.compute_bytes)}",
    )
    return f"{_name(use):<{width}}  {', '.join(parts)}"


def _name(use: BufferUse) -> str:
    return "RAM" if use.device == "CPU" else clean_line(use.device, max_chars=_MAX_NAME_CHARS)


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:,.0f} MiB"
