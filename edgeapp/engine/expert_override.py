"""Let every token use more or fewer experts than the model was trained with, through a key of its header.

Reads the header alone, before any weight is loaded. Knows no engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.errors import UsageError
from edgeapp.gguf_info.hyperparameters import read_hyperparameters
from edgeapp.gguf_info.kind import require_model
from edgeapp.gguf_info.parts import read_parts

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp.gguf_info.header import Header

_MAX_LAYERS = 512  # LLAMA_MAX_LAYERS (src/llama-hparams.h)


def expert_override(path: Path, n_expert_used: int) -> tuple[str, int]:
    """Return the key that sets the experts of a token, and its value, for the model at `path`.

    Raise `UsageError` for a dense model, for a count that it cannot route, and for a model whose layers use
    different counts: llama.cpp overrides numbers, no arrays. Raise `ModelError` for an unreadable header.
    """
    header = read_parts(path)[0]
    arch = require_model(header)
    n_expert = read_hyperparameters(header, arch).n_expert
    key = f"{arch}.expert_used_count"
    if n_expert == 0:
        raise UsageError(
            "This model is dense: it has no experts to choose from.", hint="Leave --experts out."
        )
    if len(header.integers(key, max_count=_MAX_LAYERS) or ()) > 1:
        raise UsageError(
            "Each layer of this model uses a number of experts of its own, which cannot be changed.",
            hint="Leave --experts out.",
        )
    most = _most_routable(header, arch, n_expert)
    if not 1 <= n_expert_used <= most:
        raise UsageError(
            f"{n_expert_used} experts per token are not possible: a token can go to 1 to {most}.",
            hint=f"Choose --experts between 1 and {most}.",
        )
    return key, n_expert_used


def _most_routable(header: Header, arch: str, n_expert: int) -> int:
    """With expert groups, only the experts of the chosen groups can be used (DeepSeek-V3)."""
    n_groups = header.integer(f"{arch}.expert_group_count") or 0
    n_chosen = header.integer(f"{arch}.expert_group_used_count") or 0
    return n_chosen * (n_expert // n_groups) if n_groups > 1 else n_expert
