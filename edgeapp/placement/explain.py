"""Say what a placement is and why, in sentences for the user. Pure text."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgeapp.placement.problem import DEFAULT_MAX_CTX
from edgeapp.placement.search import best_with, make_setting
from edgeapp.placement.speed import Parts

if TYPE_CHECKING:
    from edgeapp.placement.machine import DeviceFacts
    from edgeapp.placement.search import Candidate

GIB = 1 << 30
_CAUSES = Parts._fields
_MINUTES_FROM_S = 120
SHORT_CTX = 4096
"""What the cost of a longer context is measured against; llama.cpp's --fit shrinks to it."""


def sentence(candidate: Candidate) -> str:
    """Return one line like "36 of 48 expert layers in RAM; 11.2 of 12.0 GiB VRAM; context 32k kept; …"."""
    prefill_s, decode_s = candidate.prefill.total_s, candidate.decode.total_s
    n_prompt = min(candidate.setting.problem.wishes.workload.n_prompt, candidate.setting.problem.n_ctx)
    return "; ".join(
        (
            _where(candidate),
            _memory(candidate),
            f"context {tokens(candidate.setting.problem.n_ctx)} kept",
            f"about {rate(1 / max(decode_s, 1e-9))} tok/s",
            f"first token of a {tokens(n_prompt)} prompt in {seconds(prefill_s)}",
        )
    )


def reasons(candidate: Candidate) -> tuple[str, ...]:
    """Return the sentence, then what was decided and what it would take to be faster."""
    return (
        sentence(candidate),
        *_paging(candidate),
        *_context(candidate),
        *_experts(candidate),
        *_layers(candidate),
        *_setting(candidate),
        *_trust(candidate),
    )


def bottleneck(candidate: Candidate) -> str:
    """Return one clause: what most of a typical request's time goes to."""
    n_answer = candidate.setting.problem.wishes.workload.n_answer
    spent = candidate.prefill + candidate.decode.times(n_answer)
    cause = max(_CAUSES, key=lambda name: float(getattr(spent, name)))
    return {
        "device_reading": "reading weights from GPU memory",
        "host_reading": _host_reading(candidate),
        "copying": "copying experts to the GPU while the prompt is read",
        "device_computing": "computing on the GPU",
        "host_computing": "computing on the CPU",
        "launching": "starting the GPU's work, layer by layer",
        "cache_reading": "reading the KV cache",
        "stops": f"changing between GPU and CPU {candidate.split.n_stops} times a token",
        "paging": "reading weights from the disk again and again",
    }[cause]


def gib(n_bytes: int) -> str:
    return f"{n_bytes / GIB:.1f} GiB"


def tokens(n: int) -> str:
    """Return 32k for 32768, and small or odd numbers as they are."""
    return f"{n // 1024}k" if n >= 1024 and n % 1024 == 0 else str(n)  # noqa: PLR2004 - a kilo


def rate(tps: float) -> str:
    """Return two digits, more before the point."""
    if tps >= 10:  # noqa: PLR2004 - two digits
        return f"{tps:.0f}"
    return f"{tps:.1f}" if tps >= 1 else f"{tps:.2g}"


def seconds(duration_s: float) -> str:
    if duration_s >= _MINUTES_FROM_S:
        return f"{duration_s / 60:.0f} min"
    return f"{duration_s:.0f} s" if duration_s >= 10 else f"{duration_s:.1f} s"  # noqa: PLR2004 - two digits


def _where(candidate: Candidate) -> str:
    split, shape = candidate.split, candidate.setting.problem.shape
    if not split.uses_device:
        return "everything in RAM"
    n_layers, n_experts = len(shape.layers), len(shape.expert_layers)
    if split.cpu_layers:
        left = f", {split.cpu_layers} of {n_layers} layers whole" if n_experts else ""
        return (
            f"{len(split.cpu_expert_layers)} of {n_experts} expert layers in RAM{left}"
            if n_experts
            else f"{split.cpu_layers} of {n_layers} layers in RAM"
        )
    if not split.cpu_expert_layers:
        return "everything on the GPU"
    n = len(split.cpu_expert_layers)
    partly = ", one of them in part" if split.partial else ""
    return f"{n} of {n_experts} expert layers in RAM{partly}"


def _memory(candidate: Candidate) -> str:
    problem, need = candidate.setting.problem, candidate.need
    if candidate.split.uses_device:
        return f"{need.device_bytes / GIB:.1f} of {gib(problem.vram_budget_bytes)} VRAM"
    used = min(need.host_weights + need.host_kv + need.host_compute, problem.ram_budget_bytes)
    return f"{used / GIB:.1f} of {gib(problem.ram_budget_bytes)} RAM"


def _paging(candidate: Candidate) -> tuple[str, ...]:
    paged = candidate.paged_bytes
    if not paged:
        return ()
    weights = gib(candidate.need.host_weights)
    said = f"{gib(paged)} of the {weights} of weights in RAM do not fit there and are read from the disk "
    return (said + "again and again; close other programs or take a smaller quantisation.",)


def _context(candidate: Candidate) -> tuple[str, ...]:
    problem, need = candidate.setting.problem, candidate.need
    kept = f"The context of {problem.n_ctx} tokens takes {gib(need.device_kv + need.host_kv)}."
    trained = problem.shape.n_ctx_train
    if not problem.wishes.n_ctx and trained > problem.n_ctx:
        kept += f" The model was trained for {trained}; without --ctx at most {DEFAULT_MAX_CTX} are taken."
    return (kept, *_cost_of_context(candidate))


def _cost_of_context(candidate: Candidate) -> tuple[str, ...]:
    """Say what leaves the GPU for a long context: it is kept, whatever that costs."""
    setting, split = candidate.setting, candidate.split
    problem = setting.problem
    if not split.uses_device or not split.host.weight_bytes or problem.n_ctx <= SHORT_CTX:
        return ()
    short = make_setting(
        replace(problem, n_ctx=SHORT_CTX),
        n_ubatch=min(setting.n_ubatch, SHORT_CTX),
        kv_type=setting.kv_type,
        load_mode=setting.load_mode,
    )
    other = best_with(short, problem.splits())
    if other is None or other.split.host.weight_bytes >= split.host.weight_bytes:
        return ()
    more = gib(split.host.weight_bytes - other.split.host.weight_bytes)
    return (f"With a context of {tokens(SHORT_CTX)}, {more} more of the weights would be on the GPU.",)


def _experts(candidate: Candidate) -> tuple[str, ...]:
    split, problem = candidate.split, candidate.setting.problem
    if not split.uses_device or not split.cpu_expert_layers:
        return ()
    if problem.pinned_layers is not None:
        return ("The experts are where you put them.",)
    beside = split.host.weight_bytes + candidate.need.host_kv
    missing = candidate.need.device_bytes + beside - problem.vram_budget_bytes
    return (f"With {gib(max(missing, 0))} more VRAM everything would fit on the GPU.",)


def _layers(candidate: Candidate) -> tuple[str, ...]:
    split, problem = candidate.split, candidate.setting.problem
    if problem.device is None:
        return ("No GPU that this engine can use.",) if problem.wishes.use_gpu else ("The GPU is not used.",)
    if not split.uses_device:
        return (_unused(candidate, problem.device),)
    if split.cpu_layers:
        return (
            f"What every token needs does not fit the GPU: {split.cpu_layers} layers compute on the CPU.",
        )
    return ()


def _unused(candidate: Candidate, device: DeviceFacts) -> str:
    budget = candidate.setting.problem.vram_budget_bytes
    if budget < candidate.need.host_weights:
        return f"The GPU has too little free memory to help ({gib(device.free_bytes)} free)."
    return "The CPU alone is faster with this model than together with this GPU."


def _setting(candidate: Candidate) -> tuple[str, ...]:
    setting, wishes = candidate.setting, candidate.setting.problem.wishes
    said = []
    if setting.kv_type != "f16" and wishes.kv_type is None:
        said.append(f"The KV cache is {setting.kv_type}, which was allowed, to leave room for weights.")
    if setting.load_mode == "none" and wishes.load_mode is None:
        said.append("Weights in RAM are page-locked: the GPU copies them faster.")
    if wishes.n_ubatch > setting.n_ubatch:
        said.append(f"A micro-batch is at most the context: {setting.n_ubatch} tokens.")
    return tuple(said)


def _trust(candidate: Candidate) -> tuple[str, ...]:
    problem = candidate.setting.problem
    if problem.machine.is_measured:
        return ()
    return ("Speeds are assumed from the hardware's names; `edgeapp tune` measures them.",)


def _host_reading(candidate: Candidate) -> str:
    host = candidate.split.host
    what = "experts" if host.expert_bytes > host.dense_bytes else "weights"
    return f"reading {what} from host memory"
