"""How to load a model again after memory ran out. Pure.

A ladder is the planned load and at most three that need less, tried in their order and never twice. Whoever
plans gives the steps. Without a plan there is a usual ladder: what costs least is given up first, the size of
a micro-batch, which only slows the prefill down, then answers at the same time and what is kept for later.
Never the context: it is a promise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import asdict, replace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.protocol import Load

UBATCH_STEPS = (256, 128)
MAX_TIGHTER = 3

_PLACES = ("n_gpu_layers", "tensor_overrides")
"""Fields whose values say little to a reader."""


class Ladder:
    """Where one stands between the load as it was planned and the last way to load it.

    Empty `fallbacks` mean the usual ladder.
    """

    def __init__(self, load: Load, fallbacks: Sequence[Load] = ()) -> None:
        self._loads = (load, *(fallbacks or usual_fallbacks(load))[:MAX_TIGHTER])
        self._n_down = 0

    @property
    def load(self) -> Load:
        """How to load now."""
        return self._loads[self._n_down]

    @property
    def given_up(self) -> str:
        """What differs from the plan, "" at the top: "n_ubatch 128, n_parallel 1"."""
        return describe(self._loads[0], self.load)

    @property
    def tried(self) -> tuple[str, ...]:
        """What was given up at each step so far."""
        return tuple(describe(self._loads[0], load) for load in self._loads[1 : self._n_down + 1])

    def step_down(self) -> bool:
        """Need less from now on; False when nothing is left to give up."""
        if self._n_down + 1 >= len(self._loads):
            return False
        self._n_down += 1
        return True

    def start_again(self) -> None:
        """Go back to the plan."""
        self._n_down = 0


def usual_fallbacks(load: Load) -> tuple[Load, ...]:
    """Return how to load with less and less memory, without knowing any device."""
    steps = [replace(load, n_ubatch=n_ubatch) for n_ubatch in UBATCH_STEPS if n_ubatch < load.n_ubatch]
    smallest = steps[-1] if steps else load
    alone = replace(smallest, n_parallel=1, n_kv=min(load.n_kv, load.n_ctx), cache_ram_bytes=0)
    return (*steps, alone) if alone != smallest else tuple(steps)


def describe(before: Load, after: Load) -> str:
    """Say what differs: "n_ubatch 128, more of the model in host memory"."""
    old, new = asdict(before), asdict(after)
    changed = [name for name in new if new[name] != old[name]]
    words = [f"{name} {new[name]}" for name in changed if name not in (*_PLACES, "device")]
    if before.device and not after.device:
        words.append("the CPU alone")
    elif any(name in changed for name in _PLACES):
        words.append("another part of the model in host memory")
    return ", ".join(words)
