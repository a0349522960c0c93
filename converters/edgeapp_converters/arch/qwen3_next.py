"""Qwen3-Next. Pure: config and names to a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeapp_converters.arch import delta_net, ends, keys
from edgeapp_converters.arch.assembly import Assembly
from edgeapp_converters.plan import ElementMap, ModelPlan

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from edgeapp_converters.arch.config import Config
    from edgeapp_converters.source import SourceTensor

ARCHITECTURES = ("Qwen3NextForCausalLM",)

_ARCH = "qwen3next"


def plan(config: Config, tensors: Mapping[str, SourceTensor]) -> ModelPlan:
    """Plan a GGUF of architecture `qwen3next`. Raise `UnsupportedCheckpoint` for what llama.cpp has fixed."""
    delta_net.check(config)
    assembly = Assembly(tensors, fp8_block=keys.fp8_block(config))
    ends.ends(assembly, config, norm_map=ElementMap.ADD_ONE)
    n_layer = delta_net.layers(assembly, config, "model", _delta_net)
    n_predict = delta_net.prediction(assembly, config, n_layer)
    return ModelPlan(
        architecture=_ARCH,
        metadata=delta_net.metadata(_ARCH, config, n_predict),
        tensors=assembly.finish(),
        n_layer=n_layer + n_predict,
        n_expert=config.integer("num_experts"),
        n_expert_used=config.integer("num_experts_per_tok"),
        ignored=tuple(assembly.ignored),
    )


def _delta_net(assembly: Assembly, config: Config, block: str, source: str) -> None:
    qkvz = f"{source}.in_proj_qkvz.weight"
    n_embd = config.integer("hidden_size")
    n_key, n_value = delta_net.widths(config)
    assembly.require_shape(qkvz, (2 * n_key + 2 * n_value, n_embd))
    order, n_qkv = _qkvz_order(config), 2 * n_key + n_value
    for target, rows in (("attn_qkv", order[:n_qkv]), ("attn_gate", order[n_qkv:])):
        part = assembly.part(qkvz, target_row=0, n_rows=rows.size, row_order=rows)
        assembly.add(f"{block}.{target}.weight", (rows.size, n_embd), [part])
    n_channels, _, n_taps = assembly.require_dimensions(f"{source}.conv1d.weight", 3)
    assembly.copy(f"{block}.ssm_conv1d.weight", f"{source}.conv1d.weight", (n_channels, n_taps))
    assembly.copy(f"{block}.ssm_ba.weight", f"{source}.in_proj_ba.weight")
    assembly.copy(f"{block}.ssm_dt.bias", f"{source}.dt_bias")
    assembly.copy(f"{block}.ssm_a", f"{source}.A_log", element_map=ElementMap.NEG_EXP)
    assembly.copy(f"{block}.ssm_norm.weight", f"{source}.norm.weight")
    assembly.copy(f"{block}.ssm_out.weight", f"{source}.out_proj.weight")


def _qkvz_order(config: Config) -> npt.NDArray[np.int64]:
    """Rows come as q, k, v, z of the first key head, then of the next; llama.cpp wants all q, all k, …."""
    n_head, head = config.integer("linear_num_key_heads"), config.integer("linear_key_head_dim")
    values = delta_net.widths(config)[1] // n_head
    rows = np.arange(n_head * (2 * head + 2 * values), dtype=np.int64).reshape(n_head, -1)
    parts = np.split(rows, [head, 2 * head, 2 * head + values], axis=1)
    return np.concatenate([part.reshape(-1) for part in parts])
