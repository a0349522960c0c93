"""GLM-4.7-Flash: DeepSeek's layout with sigmoid scores. Pure: config and names to a plan.

Its prediction layer is kept, because llama.cpp can draft with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp_converters.arch import deepseek, keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeapp_converters.arch.config import Config
    from edgeapp_converters.plan import ModelPlan
    from edgeapp_converters.source import SourceTensor

ARCHITECTURES = ("Glm4MoeLiteForCausalLM",)


def plan(config: Config, tensors: Mapping[str, SourceTensor]) -> ModelPlan:
    """Plan a GGUF of architecture `deepseek2`."""
    return deepseek.assemble(config, tensors, gating=keys.SIGMOID, keeps_prediction=True)
