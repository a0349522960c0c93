"""From choices to a plan and the request that carries it out, on the machine as it was first seen."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from msgspec.structs import replace

from edgeapp.profiles.answer_watch import Expected
from edgeapp.profiles.tuned import tuned_wishes
from edgeapp.runtime.loading import load_request
from edgeapp.tune.trials import Placed

if TYPE_CHECKING:
    from edgeapp.profiles.machine_profile import MachineProfile
    from edgeapp.profiles.tuned import Choices
    from edgeapp.runtime.planning import Planned
    from edgeapp.tune.tuning import Planner


def planner(first: Planned, profile: MachineProfile) -> Planner:
    """Return what plans `first` otherwise, with its wishes, its probes and its machine."""

    def place(choices: Choices) -> Placed:
        made = first.with_wishes(tuned_wishes(first.wishes, choices))
        # Repacked weights need room that the plan may not have found.
        repack = made.plan.repack and choices.repack is not False
        plan = dataclasses.replace(made.plan, repack=repack)
        load = load_request(plan, made.info.path)
        expected = Expected(
            model=made.info.path.name,
            plan=plan,
            workload=made.wishes.workload,
            machine=made.machine,
            assumed_ram_read_bps=profile.assumed_ram_read_bps,
        )
        # Nothing of a try is worth keeping for later, on the disk or in memory.
        return Placed(expected=expected, load=replace(load, prefix_folder="", cache_ram_bytes=0))

    return place
