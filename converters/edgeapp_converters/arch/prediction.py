"""Layers behind the last one that predict further tokens (MTP, in llama.cpp: nextn). Knows no family."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeapp_converters.arch.assembly import Assembly


def names_behind(assembly: Assembly, n_layer: int) -> list[str]:
    """All tensors of layers `n_layer` and further."""
    found = []
    for name in assembly.starting_with("model.layers."):
        match = re.match(r"model\.layers\.(\d+)\.", name)
        if match and int(match[1]) >= n_layer:
            found.append(name)
    return found


def copy_nextn(assembly: Assembly, block: str, source: str) -> None:
    """What such a layer has beyond attention and experts; own embedding and head only where there are."""
    for name in ("eh_proj", "enorm", "hnorm"):
        assembly.copy(f"{block}.nextn.{name}.weight", f"{source}.{name}.weight")
    optional = {
        "embed_tokens": "embed_tokens",
        "shared_head_head": "shared_head.head",
        "shared_head_norm": "shared_head.norm",
    }
    for target, name in optional.items():
        assembly.copy_present(f"{block}.nextn.{target}.weight", f"{source}.{name}.weight")
