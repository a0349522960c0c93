"""The words and numbers that the chat screen shows, fitted to a width in cells. Pure: knows no widget."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from rich.cells import cell_len

from edgeapp.errors import ContextOverflow
from edgeapp.protocol import Done, Failed, Memory, Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.runtime.client import EngineDown

State = Literal["loading", "ready", "answering", "stopping", "released", "down", "failed"]

STATES: dict[State, str] = {
    "loading": "loading",
    "ready": "ready",
    "answering": "answering",
    "stopping": "stopping",
    "released": "released",
    "down": "engine stopped",
    "failed": "not loaded",
}

_PHASES = {
    "starting": "starting the engine",
    "checking": "checking the model file",
    "weights": "reading weights",
    "context": "preparing the context",
    "warmup": "warming up",
    "prefill": "reading the prompt",
}

THINKING = "thinking"

_HINTS: dict[State, tuple[str, ...]] = {
    "loading": ("ctrl+q quit", "enter queues your message"),
    "ready": ("enter send", "ctrl+q quit", "ctrl+n new", "/help"),
    "answering": ("esc stop", "ctrl+n new"),
    "stopping": ("stopping",),
    "released": ("released; the next message loads it again", "ctrl+q quit"),
    "down": ("enter send", "ctrl+q quit"),
    "failed": ("ctrl+q quit",),
}
"""What the keys do in each state, most important first."""

_GAP = 2
_MINUTE_S = 60
_SEPARATOR = " · "


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The numbers of the status line; 0 means not known yet."""

    decode_tps: float = 0.0
    n_ctx: int = 0
    n_ctx_used: int = 0
    draft_tokens: int = 0
    """Guessed in the last answer; `draft_accepted` of them were right."""
    draft_accepted: int = 0
    rss_bytes: int = 0
    gpu_used_bytes: int = 0
    gpu_total_bytes: int = 0


def hints(state: State) -> tuple[str, ...]:
    return _HINTS[state]


def progress(event: Progress) -> str:
    return f"{_PHASES[event.phase]} {percent(event.fraction)}"


def percent(fraction: float) -> str:
    return f"{int(min(max(fraction, 0.0), 1.0) * 100)} %"


def bar(fraction: float, width: int) -> tuple[str, str]:
    """Return the filled and the empty part of a bar of `width` cells."""
    filled = round(min(max(fraction, 0.0), 1.0) * max(width, 0))
    return "━" * filled, "─" * (max(width, 0) - filled)


def hint(failed: Failed) -> str:
    """Return what helps against a failure; a conversation that is too long can be shortened here."""
    if failed.code == ContextOverflow.code and failed.n_prompt:
        return f"/trim or /summarise makes room and sends it again. {failed.hint}"
    return failed.hint


def shortened(n_turns: int, how: Literal["trim", "summarise"], summary: str) -> str:
    """Say what is no longer sent."""
    if not n_turns:
        return "Everything fits: nothing was left out."
    messages = "The oldest message is" if n_turns == 1 else f"The {n_turns} oldest messages are"
    if how == "trim":
        return f"{messages} no longer sent to the model. They stay visible."
    return f"{messages} sent as this summary from now on:\n{summary}"


def ending(event: Done | Failed) -> str:
    """How an answer ended, when that is worth a word."""
    match event:
        case Failed():
            return "incomplete"
        case Done(finish_reason="cancelled"):
            return "stopped"
        case Done(finish_reason="length") if event.n_ctx_used >= event.n_ctx > 0:
            return (
                f"cut off: the context of {event.n_ctx:,} tokens is full; /trim, /summarise, /new make room"
            )
        case Done(finish_reason="length"):
            return f"cut off after {event.usage.completion_tokens:,} tokens, the limit for an answer"
        case _:
            return ""


def thought(thought_s: float, n_tokens: int) -> str:
    tokens = "1 token" if n_tokens == 1 else f"{n_tokens:,} tokens"
    return f"thought for {_duration(thought_s)}, {tokens}"


def _duration(duration_s: float) -> str:
    if duration_s < _MINUTE_S:
        return f"{duration_s:.1f} s"
    return f"{int(duration_s // _MINUTE_S)} min {int(duration_s % _MINUTE_S)} s"


def next_start(down: EngineDown) -> str:
    """Say when the engine is back."""
    if down.retry_in_s is None:
        return ""
    return (
        "It is being started again."
        if down.retry_in_s < 1
        else f"It starts again in {down.retry_in_s:.0f} s."
    )


def with_memory(figures: Figures, memory: Memory) -> Figures:
    """Return `figures` with the memory of the worker and of all discrete and integrated GPUs."""
    gpus = [device for device in memory.devices if device.kind in ("gpu", "igpu")]
    return replace(
        figures,
        rss_bytes=memory.rss_bytes,
        gpu_used_bytes=sum(gpu.total_bytes - gpu.free_bytes for gpu in gpus),
        gpu_total_bytes=sum(gpu.total_bytes for gpu in gpus),
    )


def without_memory(figures: Figures) -> Figures:
    """Return `figures` when the engine holds nothing."""
    return replace(figures, rss_bytes=0, gpu_used_bytes=0, gpu_total_bytes=0)


def with_answer(figures: Figures, done: Done) -> Figures:
    return replace(
        figures,
        decode_tps=done.timings.decode_tps,
        draft_tokens=done.timings.draft_tokens,
        draft_accepted=done.timings.draft_accepted,
        n_ctx=done.n_ctx,
        n_ctx_used=done.n_ctx_used,
    )


def status_line(left: Sequence[str], figures: Figures, width: int) -> str:
    """Return one line of exactly `width` cells: hints at the left, figures at the right.

    The first hint has priority, then as many figures as fit, then the other hints.
    """
    first = cell_len(left[0]) + _GAP if left else 0
    right = _first_that_fits(_figure_variants(figures), width - first)
    room = width - cell_len(right) - (_GAP if right else 0)
    hint = _join_that_fits(left, room)
    return hint + " " * max(width - cell_len(hint) - cell_len(right), 0) + right


def _join_that_fits(parts: Sequence[str], width: int) -> str:
    line = ""
    for part in parts:
        longer = f"{line}{_SEPARATOR}{part}" if line else part
        if cell_len(longer) > width:
            break
        line = longer
    return line


def _first_that_fits(variants: Sequence[Sequence[str]], width: int) -> str:
    lines = (_SEPARATOR.join(part for part in parts if part) for parts in variants)
    return next((line for line in lines if cell_len(line) <= width), "")


def _figure_variants(figures: Figures) -> list[list[str]]:
    speed = f"{figures.decode_tps:.1f} tok/s" if figures.decode_tps else ""
    accepted = percent(figures.draft_accepted / figures.draft_tokens) if figures.draft_tokens else ""
    drafts = f"drafts {accepted}" if accepted else ""
    share = percent(figures.n_ctx_used / figures.n_ctx) if figures.n_ctx else ""
    context = f"context {figures.n_ctx_used:,}/{figures.n_ctx:,} ({share})" if share else ""
    short_context = f"ctx {share}" if share else ""
    memory = _mib(figures.rss_bytes) if figures.rss_bytes else ""
    gpu = f"GPU {_gib(figures.gpu_used_bytes)}/{_gib(figures.gpu_total_bytes)} GiB"
    gpu = gpu if figures.gpu_total_bytes else ""
    return [
        [speed, drafts, context, f"memory {memory}" if memory else "", gpu],
        [speed, drafts, context, memory, gpu],
        [speed, drafts, short_context, memory, gpu],
        [speed, short_context, gpu or memory],
        [speed, short_context],
        [speed],
    ]


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f}"


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:,.0f} MiB" if n_bytes < 2**30 else f"{_gib(n_bytes)} GiB"
