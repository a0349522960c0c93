"""Qwen3.5-MoE, text part. Pure: config and names to a plan.

The value heads of a delta net are stored grouped by the key head they share; llama.cpp wants them tiled, the
first of every group, then the second: rows of what makes them, columns of what reads them, are reordered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeapp.errors import InvalidCheckpoint
from edgeapp_converters.arch import delta_net, ends, keys
from edgeapp_converters.arch.assembly import Assembly
from edgeapp_converters.metadata import Metadata, i32s
from edgeapp_converters.plan import ElementMap, ModelPlan

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from edgeapp_converters.arch.config import Config
    from edgeapp_converters.source import SourceTensor

ARCHITECTURES = ("Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeForCausalLM")

_ARCH = "qwen35moe"
_SECTIONS = (11, 11, 10)  # transformers, Qwen3_5MoeTextRotaryEmbedding, for configurations that do not say
_N_SECTION = 4


def plan(config: Config, tensors: Mapping[str, SourceTensor]) -> ModelPlan:
    """Plan a GGUF of architecture `qwen35moe`. Raise `UnsupportedCheckpoint` for what llama.cpp has fixed."""
    config = config.text()
    delta_net.check(config)
    assembly = Assembly(tensors, fp8_block=keys.fp8_block(config))
    model = "model.language_model" if assembly.starting_with("model.language_model.") else "model"
    ends.ends(assembly, config, model=model, norm_map=ElementMap.ADD_ONE)
    n_layer = delta_net.layers(assembly, config, model, _delta_net)
    n_predict = delta_net.prediction(assembly, config, n_layer)
    vision = assembly.starting_with("model.visual.")
    assembly.ignore(vision)
    return ModelPlan(
        architecture=_ARCH,
        metadata=delta_net.metadata(_ARCH, config, n_predict) | _sections(config),
        tensors=assembly.finish(),
        n_layer=n_layer + n_predict,
        n_expert=config.integer("num_experts"),
        n_expert_used=config.integer("num_experts_per_tok"),
        ignored=tuple(assembly.ignored),
        notes=("The vision part is left out: the file answers text only.",) if vision else (),
    )


def _delta_net(assembly: Assembly, config: Config, block: str, source: str) -> None:
    n_key, n_value = delta_net.widths(config)
    assembly.require_shape(f"{source}.in_proj_z.weight", (n_value, config.integer("hidden_size")))
    assembly.require_shape(f"{source}.conv1d.weight", (2 * n_key + n_value, 1, _n_taps(config)))
    heads, rows = _tiled(config, 1), _tiled(config, config.integer("linear_value_head_dim"))
    channels = np.concatenate([np.arange(2 * n_key, dtype=np.int64), 2 * n_key + rows])
    matrices = {
        "attn_qkv": ("in_proj_qkv", channels),
        "attn_gate": ("in_proj_z", rows),
        "ssm_beta": ("in_proj_b", heads),
        "ssm_alpha": ("in_proj_a", heads),
    }
    for target, (name, order) in matrices.items():
        assembly.require_shape(f"{source}.{name}.weight", (order.size, config.integer("hidden_size")))
        assembly.copy(f"{block}.{target}.weight", f"{source}.{name}.weight", row_order=order)
    taps = (channels.size, _n_taps(config))
    assembly.copy(f"{block}.ssm_conv1d.weight", f"{source}.conv1d.weight", taps, row_order=channels)
    assembly.copy(f"{block}.ssm_dt.bias", f"{source}.dt_bias", column_order=heads)
    decay = f"{source}.A_log"
    assembly.copy(f"{block}.ssm_a", decay, column_order=heads, element_map=ElementMap.NEG_EXP)
    assembly.copy(f"{block}.ssm_norm.weight", f"{source}.norm.weight")
    assembly.copy(f"{block}.ssm_out.weight", f"{source}.out_proj.weight", column_order=rows)


def _n_taps(config: Config) -> int:
    return config.integer("linear_conv_kernel_dim")


def _tiled(config: Config, head_dim: int) -> npt.NDArray[np.int64]:
    """For every position of the tiled order, the position in the grouped order."""
    n_key, n_value = config.integer("linear_num_key_heads"), config.integer("linear_num_value_heads")
    grouped = np.arange(n_value * head_dim, dtype=np.int64).reshape(n_key, n_value // n_key, head_dim)
    return grouped.swapaxes(0, 1).reshape(-1)


def _sections(config: Config) -> Metadata:
    """How the rotary dimensions are shared between time, height and width; text uses one position for all."""
    said = keys.rope_parameters(config).get("mrope_section", list(_SECTIONS))
    if not isinstance(said, list) or len(said) > _N_SECTION or not all(type(size) is int for size in said):
        raise InvalidCheckpoint("config.json gives mrope_section not as a list of up to four sizes.")
    return {f"{_ARCH}.rope.dimension_sections": i32s([*said, *[0] * (_N_SECTION - len(said))])}
