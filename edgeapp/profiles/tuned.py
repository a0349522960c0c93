"""Which choices were measured to be fastest for a model on this machine. Knows no engine.

The planner stays in charge: choices go into its wishes where the user has none, and only as long as it
thinks no worse of them than when measuring proved it wrong.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from edgeapp.placement.wishes import Workload
from edgeapp.profiles import kept_file
from edgeapp.profiles.machine_profile import MachineKey  # noqa: TC001 - msgspec reads annotations
from edgeapp.protocol import LoadMode  # noqa: TC001 - msgspec reads annotations

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp.gguf_info import GgufInfo
    from edgeapp.placement.wishes import Wishes

_VERSION = 1
_MAX_WORSENED = 1.1
"""How much worse the planner may find the choices, against its own, than when they were measured."""
_HEAD_BYTES = 64 << 10


class Choices(msgspec.Struct, frozen=True, kw_only=True):
    """What `edgeapp tune` varies; None and 0 leave it to the planner."""

    n_ubatch: int = 0
    n_threads: int = 0
    load_mode: LoadMode | None = None
    cpu_expert_layers: int | None = None
    repack: bool | None = None
    """`Load.repack`: the planner has no wish for it."""


class Tuned(msgspec.Struct, frozen=True, kw_only=True):
    """The fastest choices for one model, context and workload; times of one request in seconds."""

    machine: MachineKey
    model: str
    """What the file was, as `model_key` says it."""
    workload: tuple[int, int]
    """Tokens read and written."""
    n_ctx: int
    choices: Choices
    predicted_s: float
    """Of these choices, by the planner."""
    planned_predicted_s: float
    """Of what the planner chose by itself."""
    actual_s: float
    planned_actual_s: float
    decode_tps: float
    prefill_tps: float
    tuned_at_s: float
    """Unix time."""
    version: int = _VERSION


def model_key(info: GgufInfo) -> str:
    """Return a text that changes when any file of the model does: its size, time and first bytes."""
    digest = hashlib.sha256()
    for part in info.parts:
        facts = part.stat()
        digest.update(f"{facts.st_size} {facts.st_mtime_ns} ".encode())
        with part.open("rb") as file:
            digest.update(file.read(_HEAD_BYTES))
    return digest.hexdigest()


def read_tuned(info: GgufInfo, workload: Workload, n_ctx: int, machine: MachineKey) -> Tuned | None:
    """Return what tuning found for this model, workload and context (0 is the default one), else None.

    A damaged file is None with a warning in the log.
    """
    try:
        model = model_key(info)
    except OSError:
        return None
    tuned = kept_file.read(_file(model, workload, n_ctx, machine), Tuned)
    wanted = (machine, model, (workload.n_prompt, workload.n_answer), n_ctx, _VERSION)
    if tuned is None or (tuned.machine, tuned.model, tuned.workload, tuned.n_ctx, tuned.version) != wanted:
        return None
    return tuned


def write_tuned(tuned: Tuned) -> None:
    """Keep `tuned` in place of what was found before. Raise `OSError`."""
    n_prompt, n_answer = tuned.workload
    workload = Workload(n_prompt=n_prompt, n_answer=n_answer)
    kept_file.write(_file(tuned.model, workload, tuned.n_ctx, tuned.machine), tuned)


def forget_tuned(info: GgufInfo, workload: Workload, n_ctx: int, machine: MachineKey) -> None:
    """Let the planner choose by itself again."""
    with suppress(OSError):
        _file(model_key(info), workload, n_ctx, machine).unlink(missing_ok=True)


def tuned_wishes(wishes: Wishes, choices: Choices) -> Wishes:
    """Return `wishes` with the measured choices where the user pinned nothing."""
    layers = wishes.cpu_expert_layers
    return replace(
        wishes,
        n_ubatch=wishes.n_ubatch or choices.n_ubatch,
        n_threads=wishes.n_threads or choices.n_threads,
        load_mode=wishes.load_mode or choices.load_mode,
        cpu_expert_layers=choices.cpu_expert_layers if layers is None else layers,
    )


def still_pays(tuned: Tuned, *, planned_s: float, tuned_s: float) -> bool:
    """Tell whether the tuned plan is to be preferred, by what the planner predicts for both now, in seconds.

    What was measured outweighs the prediction. But when less or more memory is free than then, the planner's
    own choice can have become much better.
    """
    then = tuned.predicted_s / tuned.planned_predicted_s if tuned.planned_predicted_s > 0 else 1.0
    return tuned_s <= planned_s * max(then, 1.0) * _MAX_WORSENED


def _file(model: str, workload: Workload, n_ctx: int, machine: MachineKey) -> Path:
    name = f"{model} {workload.n_prompt} {workload.n_answer} {n_ctx} {machine.digest}"
    return kept_file.folder() / f"tuned-{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"
