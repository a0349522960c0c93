"""The `general.*` keys of a converted file: what it is called, how large, under which licence.

Reads the small files beside the weights (`generation_config.json`, the model card). Knows no tensor data.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

from gguf import GGML_QUANT_VERSION

from edgeapp.cleantext import clean_line
from edgeapp_converters.metadata import Metadata, MetaValue, f32, i32, string, u32

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp_converters.plan import ModelPlan

_MAX_CARD_BYTES = 1 << 20
_MAX_TOP_K = 1 << 20
_LICENCE = re.compile(r"^license(_name)?:\s*[\"']?([\w.+ -]{1,80}?)[\"']?\s*$", re.MULTILINE)
_ROUTED = re.compile(r"_exps\.")
# generation_config.json → gguf-py/gguf/constants.py, Keys.General.SAMPLING_*
_SAMPLING = {
    "top_k": "general.sampling.top_k",
    "top_p": "general.sampling.top_p",
    "min_p": "general.sampling.min_p",
    "temperature": "general.sampling.temp",
    "repetition_penalty": "general.sampling.penalty_repeat",
}


def general_metadata(plan: ModelPlan, *, name: str, folder: Path | None) -> Metadata:
    """Return `general.*` without the file type, which follows from the recipe.

    `folder` holds the checkpoint's small files; None when there are none.
    """
    keys: Metadata = {
        "general.architecture": string(plan.architecture),
        "general.type": string("model"),
        "general.name": string(name),
        "general.size_label": string(size_label(plan)),
    }
    if folder is not None:
        keys |= _sampling(folder) | _licence(folder)
    return keys


def file_type_metadata(file_type: int) -> Metadata:
    """Return the keys that say how the weights are stored; `file_type` is llama.cpp's LlamaFileType."""
    return {
        "general.file_type": u32(file_type),
        "general.quantization_version": u32(GGML_QUANT_VERSION),
    }


def size_label(plan: ModelPlan) -> str:
    """Return `8x1.2B` or `7B` as the GGUF naming convention has it (gguf-py/gguf/utility.py, size_label)."""
    routed = sum(tensor.n_elements for tensor in plan.tensors if _ROUTED.search(tensor.name))
    total = sum(tensor.n_elements for tensor in plan.tensors)
    if not routed or not plan.n_expert:
        return _rounded(total)
    return f"{plan.n_expert}x{_rounded(total - routed + routed // plan.n_expert)}"


def _rounded(count: int) -> str:
    for unit, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6)):
        if count > scale:
            return _two_digits(count / scale) + unit
    return _two_digits(count / 1e3) + "K"


def _two_digits(value: float) -> str:
    decimals = max(2 - len(str(round(value)).lstrip("0")), 0)
    return f"{value:.{decimals}f}"


def _sampling(folder: Path) -> Metadata:
    advice = _read_object(folder / "generation_config.json")
    found: Metadata = {}
    for field, key in _SAMPLING.items():
        value = advice.get(field)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            found |= _sampling_value(field, key, value)
    return found


def _sampling_value(field: str, key: str, value: float) -> dict[str, MetaValue]:
    if field != "top_k":
        return {key: f32(value)}
    return {key: i32(int(value))} if 0 <= value <= _MAX_TOP_K else {}


def _licence(folder: Path) -> Metadata:
    text = _read_text(folder / "README.md")
    front_matter = text.split("\n---", 1)[0] if text.startswith("---") else ""
    named = {bool(match[1]): match[2].strip() for match in _LICENCE.finditer(front_matter)}
    licence = named.get(True) or named.get(False)
    return {"general.license": string(clean_line(licence, max_chars=80))} if licence else {}


def _read_object(file: Path) -> dict[str, Any]:
    """These files only advise: one that cannot be read is as good as absent."""
    try:
        parsed = json.loads(_read_text(file) or "{}")
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _read_text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(_MAX_CARD_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
