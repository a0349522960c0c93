"""What is kept of a tuning: the fastest choices, for the next start of the same model."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from edgeapp.profiles.predictions import record
from edgeapp.profiles.tuned import Choices, Tuned, forget_tuned, model_key, write_tuned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.gguf_info import GgufInfo
    from edgeapp.placement.wishes import Wishes
    from edgeapp.profiles.machine_profile import MachineKey
    from edgeapp.tune.tuning import Trial


def keep(
    info: GgufInfo, wishes: Wishes, machine: MachineKey, *, trials: Sequence[Trial], best: Trial | None
) -> Tuned | None:
    """Keep `best` for later starts and return it; when the plan itself was best, forget what was kept before.

    What was predicted and measured of both is recorded, too. A choice that won while other programs took CPU
    time is not kept, because without them another one may win.

    Raise `OSError` when it cannot be written.
    """
    planned = next((trial for trial in trials if trial.choices == Choices()), None)
    if best is None or planned is None:
        return None
    for entry in dict.fromkeys((planned.record, best.record)):
        if entry is not None:
            record(entry)
    if best.is_crowded or planned.is_crowded:
        return None
    if best is planned:
        forget_tuned(info, wishes.workload, wishes.n_ctx, machine)
        return None
    tuned = _tuned(info, wishes, machine, best=best, planned=planned)
    write_tuned(tuned)
    return tuned


def _tuned(info: GgufInfo, wishes: Wishes, machine: MachineKey, *, best: Trial, planned: Trial) -> Tuned:
    assert best.placed and planned.placed and best.actual and planned.actual  # noqa: S101, PT018 - measured
    return Tuned(
        machine=machine,
        model=model_key(info),
        workload=(wishes.workload.n_prompt, wishes.workload.n_answer),
        n_ctx=wishes.n_ctx,
        choices=best.choices,
        predicted_s=best.placed.plan.predicted.request_s,
        planned_predicted_s=planned.placed.plan.predicted.request_s,
        actual_s=best.actual.request_s,
        planned_actual_s=planned.actual.request_s,
        decode_tps=best.actual.decode_tps,
        prefill_tps=best.actual.prefill_tps,
        tuned_at_s=time.time(),
    )
