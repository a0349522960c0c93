"""What Qwen3-Next and Qwen3.5-MoE share: gated attention, experts, prediction layer, sizes.

Three of four layers mix tokens by a gated delta net, a linear recurrence, instead of attention. RMSNorm gains
are stored around zero (`x + 1` is what counts), except the one inside the delta net.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.errors import InvalidCheckpoint, UnsupportedCheckpoint
from edgeapp_converters.arch import experts, keys
from edgeapp_converters.metadata import Metadata, booleans, f32, u32
from edgeapp_converters.plan import ElementMap

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeapp_converters.arch.assembly import Assembly
    from edgeapp_converters.arch.config import Config

    LinearAttention = Callable[[Assembly, Config, str, str], None]

_PARTIAL_ROTARY = 0.25  # transformers, Qwen3NextConfig, for configurations that do not say
_INTERVAL = 4

_PREDICTION = {
    "shared_head_norm": "norm",
    "enorm": "pre_fc_norm_embedding",
    "hnorm": "pre_fc_norm_hidden",
}


def layers(assembly: Assembly, config: Config, model: str, linear: LinearAttention) -> int:
    """Add all layers of `model` and return how many; `linear(assembly, config, block, source)` is the net."""
    recurrent = recurrent_layers(config)
    for layer, is_recurrent in enumerate(recurrent):
        block, source = f"blk.{layer}", f"{model}.layers.{layer}"
        if is_recurrent:
            linear(assembly, config, block, f"{source}.linear_attn")
        else:
            attention(assembly, block, f"{source}.self_attn")
        feed_forward(assembly, config, block, source)
    return len(recurrent)


def check(config: Config) -> None:
    """Raise `UnsupportedCheckpoint` for what llama.cpp has fixed."""
    fixed = {
        "decoder_sparse_step": 1,
        "norm_topk_prob": True,
        "linear_value_head_dim": config.integer("linear_key_head_dim"),
    }
    for name, value in fixed.items():
        said = config.optional_number(name)
        if said is not None and said != value:
            raise UnsupportedCheckpoint(
                f"llama.cpp runs this architecture only with {name} = {value}, not {said}."
            )
    if config.mapping_or_list("mlp_only_layers"):
        raise UnsupportedCheckpoint("llama.cpp runs this architecture only with experts in every layer.")


def widths(config: Config) -> tuple[int, int]:
    """Of all keys and of all values of a delta net. Raise `InvalidCheckpoint` for heads that do not match."""
    n_key, n_value = config.integer("linear_num_key_heads"), config.integer("linear_num_value_heads")
    if n_key < 1 or n_value % n_key:
        raise InvalidCheckpoint(f"{n_key} key heads cannot share {n_value} value heads evenly.")
    return n_key * config.integer("linear_key_head_dim"), n_value * config.integer("linear_value_head_dim")


def recurrent_layers(config: Config) -> list[bool]:
    """For each layer, whether it is a delta net."""
    n_layer = config.integer("num_hidden_layers")
    interval = keys.positive(config, "full_attention_interval", _INTERVAL)
    said = config.texts("layer_types")
    if not said:
        return [(layer + 1) % interval != 0 for layer in range(n_layer)]
    if len(said) != n_layer or set(said) - {"linear_attention", "full_attention"}:
        raise InvalidCheckpoint(
            f"`layer_types` in config.json must say for each of the {n_layer} layers whether it is "
            "`linear_attention` or `full_attention`."
        )
    return [kind == "linear_attention" for kind in said]


def norm(assembly: Assembly, target: str, source: str) -> None:
    assembly.copy(f"{target}.weight", f"{source}.weight", element_map=ElementMap.ADD_ONE)


def attention(assembly: Assembly, block: str, source: str) -> None:
    """Queries and their output gates are rows of one matrix, as llama.cpp wants them."""
    for target, name in (("attn_q", "q"), ("attn_k", "k"), ("attn_v", "v"), ("attn_output", "o")):
        assembly.copy(f"{block}.{target}.weight", f"{source}.{name}_proj.weight")
    norm(assembly, f"{block}.attn_q_norm", f"{source}.q_norm")
    norm(assembly, f"{block}.attn_k_norm", f"{source}.k_norm")


def feed_forward(assembly: Assembly, config: Config, block: str, source: str) -> None:
    """Both norms of a layer, router, experts and the gated shared expert."""
    norm(assembly, f"{block}.attn_norm", f"{source}.input_layernorm")
    norm(assembly, f"{block}.post_attention_norm", f"{source}.post_attention_layernorm")
    mlp = f"{source}.mlp"
    assembly.copy(f"{block}.ffn_gate_inp.weight", f"{mlp}.gate.weight")
    experts.routed(assembly, block, f"{mlp}.experts", config.integer("num_experts"))
    experts.dense(assembly, block, f"{mlp}.shared_expert", suffix="_shexp")
    assembly.copy(f"{block}.ffn_gate_inp_shexp.weight", f"{mlp}.shared_expert_gate.weight")


def prediction(assembly: Assembly, config: Config, n_layer: int) -> int:
    """The layer that predicts a further token, if the checkpoint has one; return how many there are."""
    if "mtp.fc.weight" not in assembly:
        return 0
    block = f"blk.{n_layer}"
    assembly.copy(f"{block}.nextn.eh_proj.weight", "mtp.fc.weight")
    for target, source in _PREDICTION.items():
        norm(assembly, f"{block}.nextn.{target}", f"mtp.{source}")
    attention(assembly, block, "mtp.layers.0.self_attn")
    feed_forward(assembly, config, block, "mtp.layers.0")
    return 1


def metadata(arch: str, config: Config, n_predict: int) -> Metadata:
    """All keys that both architectures have."""
    recurrent = [*recurrent_layers(config), *[False] * n_predict]
    n_head_kv = config.integer("num_key_value_heads")
    found = keys.sizes(arch, config, n_layer=len(recurrent), n_head_kv=n_head_kv)
    found |= keys.rotary(arch, config) | keys.head_dim(arch, config.integer("head_dim"))
    found |= keys.experts(
        arch,
        n_expert=config.integer("num_experts"),
        n_expert_used=config.integer("num_experts_per_tok"),
        n_ff=config.integer("moe_intermediate_size"),
    )
    n_rotated = keys.rotated(config, config.integer("head_dim"), _PARTIAL_ROTARY)
    found |= {
        f"{arch}.attention.layer_norm_rms_epsilon": f32(config.number("rms_norm_eps")),
        f"{arch}.expert_shared_feed_forward_length": u32(config.integer("shared_expert_intermediate_size")),
        f"{arch}.attention.recurrent_layers": booleans(recurrent),
        f"{arch}.full_attention_interval": u32(config.integer("full_attention_interval", _INTERVAL)),
        f"{arch}.rope.dimension_count": u32(n_rotated),
    }
    if n_predict:
        found[f"{arch}.nextn_predict_layers"] = u32(n_predict)
    return found | _recurrence(arch, config)


def _recurrence(arch: str, config: Config) -> Metadata:
    n_value_head = config.integer("linear_num_value_heads")
    return {
        f"{arch}.ssm.conv_kernel": u32(config.integer("linear_conv_kernel_dim")),
        f"{arch}.ssm.state_size": u32(config.integer("linear_key_head_dim")),
        f"{arch}.ssm.group_count": u32(config.integer("linear_num_key_heads")),
        f"{arch}.ssm.time_step_rank": u32(n_value_head),
        f"{arch}.ssm.inner_size": u32(config.integer("linear_value_head_dim") * n_value_head),
    }
