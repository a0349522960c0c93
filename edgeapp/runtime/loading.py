"""From a placement plan to the request that carries it out, and what this build of the engine can do."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

from edgeapp import paths
from edgeapp.protocol import Load, TensorOverride

if TYPE_CHECKING:
    from edgeapp.placement.plan import PlacementPlan


def load_request(
    plan: PlacementPlan,
    path: Path,
    *,
    n_expert_used: int = 0,
    draft_path: Path | None = None,
) -> Load:
    """Return the request to load the model at `path` as planned; the client gives it its id.

    `n_expert_used` 0 is as trained; the model at `draft_path`, if any, drafts for this one.
    """
    return Load(
        path=str(path),
        n_ctx=plan.n_ctx,
        n_threads=plan.n_threads,
        n_ubatch=plan.n_ubatch,
        device=plan.device,
        n_gpu_layers=plan.n_gpu_layers,
        tensor_overrides=tuple(
            TensorOverride(pattern=wanted.pattern, buffer=wanted.buffer) for wanted in plan.tensor_overrides
        ),
        load_mode=plan.load_mode,
        kv_type=plan.kv_type,
        n_parallel=plan.n_parallel,
        cache_ram_bytes=plan.cache_ram_bytes,
        prefix_folder=str(prefix_folder()),
        n_expert_used=n_expert_used,
        draft_path="" if draft_path is None else str(draft_path),
        repack=plan.repack,
    )


def prefix_folder() -> Path:
    """Return where the KV of system prompts is kept between starts. It can be deleted at any time."""
    return paths.cache_dir() / "prefixes"


def engine_has_cuda() -> bool:
    """Tell whether the installed engine can use an NVIDIA GPU, by its files: nothing is imported."""
    chosen = os.environ.get("LLAMA_CPP_LIB_PATH")
    if chosen and next(Path(chosen).glob("libggml-cuda*"), None):
        return True
    spec = importlib.util.find_spec("llama_cpp")
    folders = spec.submodule_search_locations if spec else None
    return any(next(Path(folder, "lib").glob("libggml-cuda*"), None) for folder in folders or ())
