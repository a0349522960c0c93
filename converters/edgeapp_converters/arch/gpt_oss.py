"""GPT-OSS. Pure: config and names to a plan.

Its experts come as MXFP4 blocks, which GGUF has as a type of its own: they are moved and never quantised.
Gate and up rows alternate, in weights and in biases. Un-quantised copies (transformers, BF16) hold the same
weights transposed: [n_expert, n_embd, 2 n_ff] and [n_expert, n_ff, n_embd].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gguf import GGMLQuantizationType

from edgeapp.errors import UnsupportedCheckpoint
from edgeapp_converters.arch import ends, keys
from edgeapp_converters.arch.assembly import Assembly
from edgeapp_converters.metadata import Metadata, f32, u32
from edgeapp_converters.plan import ModelPlan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeapp_converters.arch.config import Config
    from edgeapp_converters.source import SourceTensor

ARCHITECTURES = ("GptOssForCausalLM",)

_ARCH = "gpt-oss"
_VALUES_PER_BLOCK = 32  # OCP Microscaling Formats 1.0, MXFP4
_SWIGLU_LIMIT = 7.0  # llama.cpp, src/llama-graph.cpp, LLM_FFN_SWIGLU_OAI_MOE
_SWIGLU_ALPHA = 1.702


def plan(config: Config, tensors: Mapping[str, SourceTensor]) -> ModelPlan:
    """Plan a GGUF of architecture `gpt-oss`. Raise `UnsupportedCheckpoint` for what llama.cpp has fixed."""
    _check(config)
    n_layer = config.integer("num_hidden_layers")
    assembly = Assembly(tensors)
    ends.ends(assembly, config, repeat_tied=True)
    for layer in range(n_layer):
        _attention(assembly, f"blk.{layer}", f"model.layers.{layer}")
        _experts(assembly, config, f"blk.{layer}", f"model.layers.{layer}.mlp")
    return ModelPlan(
        architecture=_ARCH,
        metadata=_metadata(config, n_layer),
        tensors=assembly.finish(),
        n_layer=n_layer,
        n_expert=config.integer("num_local_experts"),
        n_expert_used=config.integer("num_experts_per_tok"),
        ignored=tuple(assembly.ignored),
    )


def _check(config: Config) -> None:
    n_layer = config.integer("num_hidden_layers")
    alternating = [("sliding", "full")[layer % 2] + "_attention" for layer in range(n_layer)]
    if (config.texts("layer_types") or alternating) != alternating:
        raise UnsupportedCheckpoint("llama.cpp runs GPT-OSS only with sliding windows in every other layer.")
    limit, alpha = config.number("swiglu_limit", _SWIGLU_LIMIT), config.number("swiglu_alpha", _SWIGLU_ALPHA)
    if (limit, alpha) != (_SWIGLU_LIMIT, _SWIGLU_ALPHA):
        raise UnsupportedCheckpoint(
            f"llama.cpp runs GPT-OSS only with swiglu_limit {_SWIGLU_LIMIT} and swiglu_alpha "
            f"{_SWIGLU_ALPHA}, not with {limit} and {alpha}."
        )


def _attention(assembly: Assembly, block: str, source: str) -> None:
    assembly.copy(f"{block}.attn_norm.weight", f"{source}.input_layernorm.weight")
    assembly.copy(f"{block}.post_attention_norm.weight", f"{source}.post_attention_layernorm.weight")
    for target, name in (("attn_q", "q"), ("attn_k", "k"), ("attn_v", "v"), ("attn_output", "o")):
        assembly.copy(f"{block}.{target}.weight", f"{source}.self_attn.{name}_proj.weight")
        assembly.copy(f"{block}.{target}.bias", f"{source}.self_attn.{name}_proj.bias")
    assembly.copy(f"{block}.attn_sinks.weight", f"{source}.self_attn.sinks")


def _experts(assembly: Assembly, config: Config, block: str, source: str) -> None:
    n_expert, n_ff = config.integer("num_local_experts"), config.integer("intermediate_size")
    assembly.copy(f"{block}.ffn_gate_inp.weight", f"{source}.router.weight")
    assembly.copy(f"{block}.ffn_gate_inp.bias", f"{source}.router.bias")
    fused = f"{source}.experts.gate_up_proj"
    assembly.require_shape(f"{fused}_bias", (n_expert, 2 * n_ff))
    for first, kind in enumerate(("gate", "up")):
        _alternate_biases(assembly, f"{block}.ffn_{kind}_exps.bias", f"{fused}_bias", first)
    assembly.copy(f"{block}.ffn_down_exps.bias", f"{source}.experts.down_proj_bias")
    if f"{fused}_blocks" in assembly:
        _move_blocks(assembly, block, f"{source}.experts", n_expert, n_ff)
    else:
        shape = (n_expert, n_ff, config.integer("hidden_size"))
        _transpose(assembly, block, f"{source}.experts", shape)


def _alternate_biases(assembly: Assembly, target: str, source: str, first: int) -> None:
    """Every second number of each expert: a column of the same numbers written two to a row."""
    n_expert, n_ff = assembly.shape(source)[0], assembly.shape(source)[1] // 2
    parts = [
        assembly.part(
            source,
            target_row=expert,
            n_rows=1,
            transposed=True,
            source_columns=2,
            first_row=first,
            first_column=expert * n_ff,
            expert=expert,
        )
        for expert in range(n_expert)
    ]
    assembly.add(target, (n_expert, n_ff), parts)


def _move_blocks(assembly: Assembly, block: str, source: str, n_expert: int, n_ff: int) -> None:
    gate_up, down = f"{source}.gate_up_proj", f"{source}.down_proj"
    n_embd = assembly.require_dimensions(f"{down}_blocks", 4)[1]
    for first, kind in enumerate(("gate", "up")):
        target = f"{block}.ffn_{kind}_exps.weight"
        _blocks(assembly, target, gate_up, (n_expert, n_ff, n_embd), first=first, step=2)
    _blocks(assembly, f"{block}.ffn_down_exps.weight", down, (n_expert, n_embd, n_ff), first=0, step=1)


def _blocks(
    assembly: Assembly, target: str, source: str, shape: tuple[int, int, int], *, first: int, step: int
) -> None:
    """Every `step`-th row of blocks [n_expert, step × rows, blocks, 16] from `first` on."""
    n_expert, n_rows, columns = shape
    stored = (n_expert, step * n_rows, columns // _VALUES_PER_BLOCK)
    assembly.require_shape(f"{source}_blocks", (*stored, _VALUES_PER_BLOCK // 2))
    assembly.require_shape(f"{source}_scales", stored)
    parts = [
        assembly.blocks(
            f"{source}_blocks",
            f"{source}_scales",
            target_row=expert * n_rows,
            n_rows=n_rows,
            first_row=expert * step * n_rows + first,
            row_step=step,
            expert=expert,
        )
        for expert in range(n_expert)
    ]
    assembly.add(target, shape, parts, GGMLQuantizationType.MXFP4)


def _transpose(assembly: Assembly, block: str, source: str, shape: tuple[int, int, int]) -> None:
    n_expert, n_ff, n_embd = shape
    gate_up, down = f"{source}.gate_up_proj", f"{source}.down_proj"
    assembly.require_shape(gate_up, (n_expert, n_embd, 2 * n_ff))
    assembly.require_shape(down, (n_expert, n_ff, n_embd))
    for first, kind in enumerate(("gate", "up")):
        _columns(assembly, f"{block}.ffn_{kind}_exps.weight", gate_up, first=first, step=2)
    _columns(assembly, f"{block}.ffn_down_exps.weight", down, first=0, step=1)


def _columns(assembly: Assembly, target: str, source: str, *, first: int, step: int) -> None:
    """Every `step`-th column of each expert's matrix [n_expert, columns, rows] as a row, from `first` on."""
    n_expert, columns, source_columns = assembly.require_dimensions(source, 3)
    n_rows = source_columns // step
    parts = [
        assembly.part(
            source,
            target_row=expert * n_rows,
            n_rows=n_rows,
            first_row=first,
            row_step=step,
            transposed=True,
            source_columns=source_columns,
            first_column=expert * columns,
            expert=expert,
        )
        for expert in range(n_expert)
    ]
    assembly.add(target, (n_expert, n_rows, columns), parts)


def _metadata(config: Config, n_layer: int) -> Metadata:
    n_head_kv = config.integer("num_key_value_heads")
    metadata = keys.sizes(_ARCH, config, n_layer=n_layer, n_head_kv=n_head_kv)
    metadata |= keys.rotary(_ARCH, config)
    metadata |= keys.experts(
        _ARCH,
        n_expert=config.integer("num_local_experts"),
        n_expert_used=config.integer("num_experts_per_tok"),
        n_ff=config.integer("intermediate_size"),
    )
    metadata |= keys.head_dim(_ARCH, config.integer("head_dim"))
    return metadata | {
        f"{_ARCH}.attention.layer_norm_rms_epsilon": f32(config.number("rms_norm_eps")),
        f"{_ARCH}.attention.sliding_window": u32(config.integer("sliding_window")),
    }
