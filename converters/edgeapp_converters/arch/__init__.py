"""Model families: from a configuration and the names of tensors to a plan. Pure.

Each family is a file with `ARCHITECTURES`, the class names it knows, and `plan`. A family is imported when
it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from edgeapp.cleantext import clean_line
from edgeapp.errors import UnsupportedCheckpoint
from edgeapp_converters.arch.config import Config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeapp_converters.plan import ModelPlan
    from edgeapp_converters.source import SourceTensor

FAMILIES = (
    *("mixtral", "qwen_moe", "olmoe", "deepseek", "gpt_oss", "granite_moe", "lfm2_moe", "ernie_moe"),
    *("glm4_moe", "glm4_moe_lite", "qwen3_next", "qwen3_5_moe", "gemma4_moe"),
    *("llama", "qwen3", "gemma3"),
)
"""Modules of this package, Mixture-of-Experts families first."""


def plan_model(config: dict[str, Any], tensors: Mapping[str, SourceTensor]) -> ModelPlan:
    """Return the plan for a checkpoint. `config` is its config.json, `tensors` all it holds, by name.

    Raise `UnsupportedCheckpoint` for other families and tensors that have no place, `InvalidCheckpoint`
    when something is missing or does not agree.
    """
    checked = Config(config)
    for name in FAMILIES:
        family = importlib.import_module(f"edgeapp_converters.arch.{name}")
        if checked.architecture in family.ARCHITECTURES:
            plan: ModelPlan = family.plan(checked, tensors)
            return plan
    known = ", ".join(sorted(architectures()))
    raise UnsupportedCheckpoint(
        f"{clean_line(checked.architecture, max_chars=80) or 'A checkpoint without `architectures`'} "
        f"is none of the families that edgeapp converts itself: {known}.",
        hint="Try --bridge, which runs llama.cpp's own converter.",
    )


def architectures() -> tuple[str, ...]:
    """Return the class names of all families."""
    modules = (importlib.import_module(f"edgeapp_converters.arch.{name}") for name in FAMILIES)
    return tuple(name for module in modules for name in module.ARCHITECTURES)
