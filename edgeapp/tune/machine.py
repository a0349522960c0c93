"""Measure how fast this machine is, once: later starts plan with what was kept.

It is measured in a worker (`edgeapp.runtime.probing`), with the engine's own kernels.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING

from msgspec.structs import asdict, replace

from edgeapp.hardware.work import read_work
from edgeapp.profiles.answer_watch import work_facts
from edgeapp.profiles.likely_cause import was_crowded
from edgeapp.profiles.machine_profile import MachineProfile, Speeds, read_profile, write_profile
from edgeapp.runtime.probing import measure_machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeapp.protocol import MachineMeasured
    from edgeapp.runtime.planning import MachineFacts

_log = logging.getLogger(__name__)


async def machine_profile(
    facts: MachineFacts, *, anew: bool, on_measuring: Callable[[], None]
) -> MachineProfile:
    """Return the speeds of this machine: what was kept, else, or if `anew`, measured now and kept.

    `on_measuring` is called before it takes time. Raise what the engine raises.
    """
    kept = read_profile(facts.key)
    device = facts.machine.device
    if kept is not None and not anew and not kept.is_crowded and (not device or kept.speeds.device_read_bps):
        return kept
    on_measuring()
    before, children_s = read_work(os.getpid()), _children_s()
    measured = await measure_machine(facts.host.physical_cores, device.name if device else "")
    is_crowded = was_crowded(
        work_facts(before, read_work(os.getpid()), children_s=_children_s() - children_s)
    )
    profile = MachineProfile(
        key=facts.key,
        speeds=_speeds(measured, is_crowded=is_crowded),
        is_crowded=is_crowded,
        measured_at_s=time.time(),
        assumed_ram_read_bps=kept.assumed_ram_read_bps if kept else facts.machine.host.ram_read_bps,
    )
    try:
        write_profile(profile)
    except OSError as problem:
        _log.warning("the speeds of this machine could not be kept: %s", problem)
    return profile


def _speeds(measured: MachineMeasured, *, is_crowded: bool) -> Speeds:
    """Fewer threads are best only while other programs compute, so that is not kept."""
    speeds = Speeds(**{name: value for name, value in asdict(measured).items() if name != "id"})
    return replace(speeds, n_threads_best=0) if is_crowded else speeds


def _children_s() -> float:
    """Return the CPU seconds of all children that have ended, as the worker that measures."""
    times = os.times()
    return times.children_user + times.children_system
