"""How much memory a plan may use: of the GPU, of the host, and for conversations kept aside. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.errors import UsageError

if TYPE_CHECKING:
    from edgeapp.placement.machine import DeviceFacts, HostFacts
    from edgeapp.placement.wishes import Wishes

_MIB = 1 << 20
_GIB = 1 << 30
DEFAULT_RESERVE_BYTES = _GIB
"""What stays free on a GPU, as llama.cpp's --fit leaves it (common.h, fit_params_target) …"""
RESERVE_SHARE = 0.08
"""… but on a small card at most this part of it, …"""
LEAST_RESERVE_BYTES = 256 * _MIB
"""… and at least this: buffers that CUDA allocates while it computes are in no plan."""
KEPT_FREE_SHARE = 0.05
"""Of the host's memory, for everything else that runs; the least and the most in bytes:"""
LEAST_KEPT_FREE_BYTES = 512 * _MIB
MOST_KEPT_FREE_BYTES = 4 * _GIB
MOST_KEPT_OF_AVAILABLE = 0.25
"""A machine that has little left keeps no more of it free than this."""
PINNED_SHARE = 0.75
"""Of the host's memory may be page-locked: it cannot be swapped or reclaimed, whatever happens."""
CACHE_RAM_SHARE = 0.1
"""Of the available memory, for conversations that had to leave the KV cache."""
MAX_CACHE_RAM_BYTES = 2 * _GIB


def default_reserve_bytes(device: DeviceFacts) -> int:
    """Return what stays free on `device` when the user does not say."""
    share = int(device.total_bytes * RESERVE_SHARE)
    return max(min(DEFAULT_RESERVE_BYTES, share), LEAST_RESERVE_BYTES)


def reserve_bytes(device: DeviceFacts | None, wishes: Wishes) -> int:
    """Return what is to stay free on `device`; 0 without one."""
    if device is None:
        return 0
    return default_reserve_bytes(device) if wishes.reserve_bytes is None else wishes.reserve_bytes


def vram_budget_bytes(device: DeviceFacts, wishes: Wishes) -> int:
    """Return what may be used: free less the reserve, or the user's cap.

    A cap is taken as it is while the default reserve stays free beside it; a reserve that was asked for is
    taken off the cap too.
    """
    cap = device.free_bytes if wishes.max_vram_bytes is None else wishes.max_vram_bytes
    if wishes.reserve_bytes is not None:
        return max(min(device.free_bytes, cap) - wishes.reserve_bytes, 0)
    return max(min(cap, device.free_bytes - default_reserve_bytes(device)), 0)


def ram_budget_bytes(host: HostFacts, wishes: Wishes) -> int:
    """Return what may be used: available less what stays free for the system, or the user's cap."""
    share = int(host.total_ram_bytes * KEPT_FREE_SHARE)
    kept = min(max(share, LEAST_KEPT_FREE_BYTES), MOST_KEPT_FREE_BYTES)
    kept = min(kept, int(host.available_ram_bytes * MOST_KEPT_OF_AVAILABLE))
    budget = host.available_ram_bytes - kept
    return budget if wishes.max_ram_bytes is None else min(budget, wishes.max_ram_bytes)


def pinned_budget_bytes(host: HostFacts) -> int:
    """Return how much may be page-locked, whatever the budget is."""
    return int(host.total_ram_bytes * PINNED_SHARE)


def default_cache_ram_bytes(host: HostFacts) -> int:
    """Return what left conversations get when nothing else needs it; it fills only as far as it is used."""
    return min(int(host.available_ram_bytes * CACHE_RAM_SHARE), MAX_CACHE_RAM_BYTES)


def check_cache_ram(host: HostFacts, wanted_bytes: int | None) -> None:
    """Raise `UsageError` for a wanted cache beyond the available memory."""
    if wanted_bytes is not None and wanted_bytes > host.available_ram_bytes:
        raise UsageError(
            f"{wanted_bytes / _GIB:.1f} GiB of memory for left conversations were asked for, "
            f"{host.available_ram_bytes / _GIB:.1f} GiB are available.",
            hint="Use a smaller --cache-ram.",
        )
