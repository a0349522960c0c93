"""How to load a model again after memory ran out. Pure.

What costs least is given up first: the size of a micro-batch, which only slows the prefill down, then
answers at the same time and what is kept for later. Never the context: it is a promise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import asdict, replace

if TYPE_CHECKING:
    from edgeapp.protocol import Load

UBATCH_STEPS = (256, 128)
MAX_TIGHTER = 3


def tighter(load: Load, n: int) -> Load | None:
    """Return how to load after memory ran out `n` times, from 1; None when nothing is left to give up."""
    steps = _steps(load)
    return steps[n - 1] if 1 <= n <= min(len(steps), MAX_TIGHTER) else None


def _steps(load: Load) -> list[Load]:
    steps = [replace(load, n_ubatch=n_ubatch) for n_ubatch in UBATCH_STEPS if n_ubatch < load.n_ubatch]
    smallest = steps[-1] if steps else load
    alone = replace(smallest, n_parallel=1, n_kv=min(load.n_kv, load.n_ctx), cache_ram_bytes=0)
    return [*steps, alone] if alone != smallest else steps


def describe(before: Load, after: Load) -> str:
    """Say what differs: "n_ubatch 128, n_parallel 1"."""
    old = asdict(before)
    return ", ".join(f"{name} {value}" for name, value in asdict(after).items() if value != old[name])
