"""The model that a conversion is compared with and calibrated on: the source as a GGUF, for a while.

It is written beside the target, used, and deleted. Nothing here decides what is measured.
"""

from __future__ import annotations

import shutil
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeapp.hardware import read_host
from edgeapp_converters.events import StageProgress
from edgeapp_converters.general_metadata import file_type_metadata
from edgeapp_converters.recipe import choose_types, load_recipe, summary
from edgeapp_converters.writer import write_gguf

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgeapp_converters.events import ConversionEvent, Report
    from edgeapp_converters.opening import OpenedModel

_SAME_PRECISION = {"BF16": "bf16", "F16": "f16", "F32": "f32"}
_FALLBACK = "q8_0"
_RAM_SHARE = 0.5
"""Of the available memory that this model may take; the one it is compared with needs room beside it."""


def base_precision(opened: OpenedModel, target: Path) -> str:
    """Return the recipe that keeps the source as it is, or `q8_0` where that needs too much memory or disk.

    Against F16, Q8_0 has a mean KL divergence of about 0.001 on LLaMA-3-8B (llama.cpp,
    tools/perplexity/README.md), so a loss measured against it may be that much too low.
    """
    elements: Counter[str] = Counter()
    for tensor in opened.source.tensors.values():
        elements[tensor.dtype] += tensor.n_bytes
    recipe = _SAME_PRECISION.get(elements.most_common(1)[0][0], _FALLBACK)
    n_bytes = summary(choose_types(opened.plan, load_recipe(recipe), has_imatrix=False)).n_bytes
    room_bytes = min(
        int(read_host().available_ram_bytes * _RAM_SHARE), shutil.disk_usage(target.absolute().parent).free
    )
    return recipe if n_bytes <= room_bytes else _FALLBACK


def _as_base(event: ConversionEvent, recipe_name: str) -> ConversionEvent:
    """Say in progress of this file that it is not the one that was asked for."""
    label = f"{recipe_name.upper()}, for comparison"
    return replace(event, label=label) if isinstance(event, StageProgress) else event


@contextmanager
def base_model(
    opened: OpenedModel, target: Path, recipe_name: str, *, n_threads: int, report: Report
) -> Iterator[Path]:
    """Yield a GGUF of `opened` with recipe `recipe_name`, which is gone afterwards.

    When the block is left by an interrupt, the file stays for the next run.
    """
    recipe = load_recipe(recipe_name)
    part = write_gguf(
        target.with_name(f"{target.name}.{recipe_name}"),
        metadata=opened.metadata | file_type_metadata(recipe.file_type),
        tensors=choose_types(opened.plan, recipe, has_imatrix=False),
        source=opened.source,
        imatrix=None,
        n_threads=n_threads,
        fingerprint=opened.source.fingerprint,
        report=lambda event: report(_as_base(event, recipe_name)),
    )
    try:
        yield part.path
    except BaseException:
        part.close()
        raise
    part.discard()
