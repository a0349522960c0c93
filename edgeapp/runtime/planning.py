"""Plan a model on this machine as it is at this moment: read the facts, probe the engine, ask the planner.

`planned` is the front door for everything that loads a model. Without a GPU it starts no process.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeapp.errors import NotEnoughMemory
from edgeapp.gguf_info import read_gguf_info
from edgeapp.hardware import Gpu, Host, read_gpus, read_host
from edgeapp.placement.assumed import assumed_machine
from edgeapp.placement.ladder import ladder
from edgeapp.placement.plan import plan
from edgeapp.placement.shape import ModelShape, model_shape
from edgeapp.placement.wishes import Wishes
from edgeapp.profiles.answer_watch import Expected
from edgeapp.profiles.machine_profile import MachineKey, machine_key, measured_machine, read_profile
from edgeapp.profiles.tuned import read_tuned, still_pays, tuned_wishes
from edgeapp.runtime.compute_probe import compute_need
from edgeapp.runtime.loading import engine_has_cuda, load_request
from edgeapp.runtime.probing import Questions, questions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from edgeapp.gguf_info import GgufInfo
    from edgeapp.placement.compute_need import ComputeNeed
    from edgeapp.placement.machine import Machine
    from edgeapp.placement.plan import PlacementPlan
    from edgeapp.profiles.tuned import Choices
    from edgeapp.protocol import Device, Load


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A plan with everything it was made from, so that others can be made from the same facts."""

    info: GgufInfo
    shape: ModelShape
    machine: Machine
    compute: ComputeNeed
    wishes: Wishes
    plan: PlacementPlan
    fallbacks: tuple[PlacementPlan, ...]
    """What to try, in this order, when the real load fails for memory."""
    assumed_ram_read_bps: float = 0.0
    """What was assumed of the memory before it was measured; 0 when it was not."""

    @property
    def expected(self) -> Expected:
        """What an answer is compared with afterwards."""
        return Expected(
            model=self.info.path.name,
            plan=self.plan,
            workload=self.wishes.workload,
            machine=self.machine,
            assumed_ram_read_bps=self.assumed_ram_read_bps,
        )

    def with_wishes(self, wishes: Wishes) -> Planned:
        """Plan the same model on the same machine otherwise. Raise as `planned` does."""
        made = plan(self.shape, self.machine, self.compute, wishes)
        steps = ladder(self.shape, self.machine, self.compute, wishes, made)
        return replace(self, wishes=wishes, plan=made, fallbacks=steps)


async def planned(path: Path, wishes: Wishes, *, is_tuned: bool = True) -> Planned:
    """Return the plan for the model at `path`. `is_tuned` lets what `edgeapp tune` found fill the gaps.

    Raise `ModelError`, `UsageError` for a wish that makes no sense, `NotEnoughMemory` for one that does not
    fit, `EngineError` when the engine cannot be asked.
    """
    info = read_gguf_info(path)
    shape = model_shape(info)
    async with _questions(use_gpu=wishes.use_gpu) as asked:
        facts = _facts(asked.devices if asked else ())
        compute = await compute_need(asked, info, shape, facts.machine, wishes)
    made = plan(shape, facts.machine, compute, wishes)
    first = Planned(
        info=info,
        shape=shape,
        machine=facts.machine,
        compute=compute,
        wishes=wishes,
        plan=made,
        fallbacks=ladder(shape, facts.machine, compute, wishes, made),
        assumed_ram_read_bps=facts.assumed_ram_read_bps,
    )
    return _tuned(first, facts.key) if is_tuned else first


@dataclass(frozen=True, kw_only=True)
class MachineFacts:
    """The machine for the planner, and the key under which its measured speeds are kept."""

    machine: Machine
    key: MachineKey
    host: Host
    gpus: tuple[Gpu, ...]
    assumed_ram_read_bps: float = 0.0
    """What was assumed of the memory before it was measured; 0 when it was not."""


async def machine_facts(*, use_gpu: bool = True) -> MachineFacts:
    """Return this machine as it is now, with measured speeds where `edgeapp tune` has measured them.

    Raise `EngineError` when the engine cannot be asked for its devices.
    """
    async with _questions(use_gpu=use_gpu) as asked:
        return _facts(asked.devices if asked else ())


@asynccontextmanager
async def _questions(*, use_gpu: bool) -> AsyncIterator[Questions | None]:
    """Start a worker that can be asked about GPUs, if there can be any."""
    if not (use_gpu and may_have_devices()):
        yield None
        return
    async with questions() as asked:
        yield asked


def _facts(devices: Sequence[Device]) -> MachineFacts:
    host, gpus = read_host(), read_gpus().gpus
    device = _best([device for device in devices if device.kind == "gpu"])
    machine = assumed_machine(host, device, _same_card(device, gpus))
    key = machine_key(host, gpus, device=f"{device.name}, {device.description}" if device else "")
    profile = read_profile(key)
    if profile is not None:
        machine = measured_machine(machine, profile)
    return MachineFacts(
        machine=machine,
        key=key,
        host=host,
        gpus=gpus,
        assumed_ram_read_bps=profile.assumed_ram_read_bps if profile else 0.0,
    )


def may_have_devices() -> bool:
    """Tell whether it is worth a process to ask the engine for GPUs."""
    return engine_has_cuda() or bool(os.environ.get("EDGEAPP_RPC_SERVERS"))


def _best(devices: Sequence[Device]) -> Device | None:
    """Return the GPU with most free memory: a model is not spread over several."""
    return max(devices, key=lambda device: device.free_bytes, default=None)


def _same_card(device: Device | None, gpus: Sequence[Gpu]) -> Gpu | None:
    """Return what NVML says about an engine's device: the card of that name."""
    if device is None:
        return None
    return next((gpu for gpu in gpus if gpu.name and gpu.name in device.description), None)


async def _planned_now(made: Planned) -> Planned:
    """Plan again for the machine as it is now; compute buffers are asked for only on another device."""
    facts = await machine_facts(use_gpu=made.wishes.use_gpu)
    if _device_name(facts.machine) != _device_name(made.machine):
        return await planned(made.info.path, made.wishes)
    return _tuned(replace(made, machine=facts.machine).with_wishes(made.wishes), facts.key)


def _device_name(machine: Machine) -> str:
    return "" if machine.device is None else machine.device.name


def _with_all_free(machine: Machine) -> Machine:
    device = machine.device
    return (
        machine if device is None else replace(machine, device=replace(device, free_bytes=device.total_bytes))
    )


def _tuned(made: Planned, key: MachineKey) -> Planned:
    found = read_tuned(made.info, made.wishes.workload, made.wishes.n_ctx, key)
    if found is None:
        return made
    try:
        tuned = made.with_wishes(tuned_wishes(made.wishes, found.choices))
    except NotEnoughMemory:
        return made  # less is free than when it was measured
    pays = still_pays(found, planned_s=made.plan.predicted.request_s, tuned_s=tuned.plan.predicted.request_s)
    return replace(tuned, wishes=made.wishes, plan=_with_repack(tuned.plan, found.choices)) if pays else made


def _with_repack(plan: PlacementPlan, choices: Choices) -> PlacementPlan:
    return plan if choices.repack is None else replace(plan, repack=plan.repack and choices.repack)


@dataclass(frozen=True, kw_only=True)
class EngineChoice:
    """A planned model, and what is loaded with it that the plan knows nothing of."""

    planned: Planned
    n_expert_used: int = 0
    draft_path: Path | None = None

    @property
    def load(self) -> Load:
        return self._load(self.planned.plan)

    @property
    def fallbacks(self) -> tuple[Load, ...]:
        """What to try, in this order, when `load` fails for memory."""
        return tuple(map(self._load, self.planned.fallbacks))

    async def again(self, *, max_vram_bytes: int | None = None) -> EngineChoice:
        """Plan for the memory that is free now, or for exactly `max_vram_bytes` of the GPU, less if wished.

        Raise as `planned` does.
        """
        made, wishes = self.planned, self.planned.wishes
        if max_vram_bytes is None:
            return replace(self, planned=await _planned_now(made))
        limit = min(max_vram_bytes, wishes.max_vram_bytes or max_vram_bytes)
        within = replace(made, machine=_with_all_free(made.machine)).with_wishes(
            replace(wishes, max_vram_bytes=limit, reserve_bytes=0)
        )
        return replace(self, planned=replace(within, machine=made.machine, wishes=wishes))

    def _load(self, plan: PlacementPlan) -> Load:
        return load_request(
            plan, self.planned.info.path, n_expert_used=self.n_expert_used, draft_path=self.draft_path
        )


async def planned_to_measure(path: Path, *, n_ctx: int, n_threads: int = 0) -> Planned:
    """Plan a model that is to be measured; 0 threads is the default.

    The context is never longer than the trained one. Raise as `planned` does.
    """
    info = read_gguf_info(path)
    return await planned(path, Wishes(n_ctx=min(n_ctx, info.n_ctx_train or n_ctx), n_threads=n_threads))


async def planned_load(path: Path, *, n_ctx: int, n_threads: int = 0) -> Load:
    """Return how the model at `path` is loaded to be measured. As `planned_to_measure`."""
    return EngineChoice(planned=await planned_to_measure(path, n_ctx=n_ctx, n_threads=n_threads)).load
