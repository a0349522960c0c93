"""From a placement plan to the request that carries it out, and what this build of the engine can do."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from edgeapp import paths
from edgeapp.gguf_info import read_gguf_info
from edgeapp.hardware import read_gpus, read_host
from edgeapp.placement.plan import plan
from edgeapp.protocol import Load

if TYPE_CHECKING:
    from edgeapp.placement.plan import PlacementPlan


def load_request(
    plan: PlacementPlan, path: Path, *, n_expert_used: int = 0, draft_path: Path | None = None
) -> Load:
    """Return the request to load the model at `path` as planned; the client gives it its id.

    `n_expert_used` 0 is as trained; the model at `draft_path`, if any, drafts for this one.
    """
    return Load(
        id=0,
        path=str(path),
        n_ctx=plan.n_ctx,
        n_threads=plan.n_threads,
        n_gpu_layers=plan.n_gpu_layers,
        cpu_experts=plan.cpu_experts,
        use_mmap=plan.use_mmap,
        cache_ram_bytes=plan.cache_ram_bytes,
        prefix_folder=str(prefix_folder()),
        n_expert_used=n_expert_used,
        draft_path="" if draft_path is None else str(draft_path),
    )


def prefix_folder() -> Path:
    """Return where the KV of system prompts is kept between starts. It can be deleted at any time."""
    return paths.cache_dir() / "prefixes"


def planned_load(path: Path, *, n_ctx: int, n_threads: int = 0) -> Load:
    """Return how the model at `path` is loaded on this machine as it is now; 0 threads is the default.

    The context is never longer than the trained one. Raise `ModelError` or `NotEnoughMemory`.
    """
    info = read_gguf_info(path)
    gpus = read_gpus().gpus if engine_has_cuda() else ()
    n_ctx = min(n_ctx, info.n_ctx_train or n_ctx)
    return load_request(plan(info, read_host(), gpus, ctx=n_ctx, threads=n_threads), info.path)


def engine_has_cuda() -> bool:
    """Tell whether the installed engine can use an NVIDIA GPU, by its files: nothing is imported."""
    spec = importlib.util.find_spec("llama_cpp")
    folders = spec.submodule_search_locations if spec else None
    return any(next(Path(folder, "lib").glob("libggml-cuda*"), None) for folder in folders or ())
