"""Checkpoints that would convert and then answer nonsense are refused, and say why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from edgeapp.errors import InvalidCheckpoint, UnsupportedCheckpoint
from edgeapp_converters.arch import plan_model
from edgeapp_converters.source import SourceTensor
from tests.converters.specs import (
    deepseek_v2,
    deepseek_v3,
    ernie_moe,
    gemma4_moe,
    glm4_moe,
    gpt_oss,
    gpt_oss_bf16,
    granite_moe,
    lfm2_moe,
    qwen3_5_moe,
    qwen3_next,
)

if TYPE_CHECKING:
    from edgeapp_converters.plan import ModelPlan

Shapes = list[tuple[str, tuple[int, ...], str]]


def _plan(config: dict[str, Any], tensors: Shapes, **changes: Any) -> ModelPlan:
    """The plan for a configuration with `changes`; None takes a key away."""
    changed = {key: value for key, value in (config | changes).items() if value is not None}
    found = {
        name: SourceTensor(name=name, dtype=dtype, shape=shape, shard="a", offset_bytes=0, n_bytes=0)
        for name, shape, dtype in tensors
    }
    return plan_model(changed, found)


def _without(tensors: Shapes, part: str) -> Shapes:
    return [tensor for tensor in tensors if part not in tensor[0]]


def test_deepseek_v3_without_scoring_func_is_refused_with_the_remedy() -> None:
    with pytest.raises(InvalidCheckpoint, match="scoring_func") as caught:
        _plan(deepseek_v3.CONFIG, deepseek_v3.tensors(), scoring_func=None)

    assert '"scoring_func": "sigmoid"' in caught.value.hint


def test_deepseek_v2_without_scoring_func_scores_by_softmax() -> None:
    plan = _plan(deepseek_v2.CONFIG, deepseek_v2.tensors(), scoring_func=None)

    assert plan.metadata["deepseek2.expert_gating_func"].value == 1


def test_a_scoring_function_that_llama_cpp_lacks_is_refused() -> None:
    with pytest.raises(UnsupportedCheckpoint, match="'tanh'"):
        _plan(deepseek_v3.CONFIG, deepseek_v3.tensors(), scoring_func="tanh")


def test_deepseek_with_rotary_dimensions_in_halves_is_refused() -> None:
    with pytest.raises(UnsupportedCheckpoint, match="interleaved"):
        _plan(deepseek_v3.CONFIG, deepseek_v3.tensors(), rope_interleave=False)


def test_deepseek_with_another_mscale_is_refused() -> None:
    rope = deepseek_v3.CONFIG["rope_scaling"] | {"mscale": 0.5}

    with pytest.raises(UnsupportedCheckpoint, match=r"mscale.*0\.5"):
        _plan(deepseek_v3.CONFIG, deepseek_v3.tensors(), rope_scaling=rope)


def test_deepseek_leaves_out_its_prediction_layer_and_says_so() -> None:
    plan = _plan(deepseek_v3.CONFIG, deepseek_v3.tensors())

    assert plan.n_layer == 3
    assert "model.layers.3.eh_proj.weight" in plan.ignored


def test_a_deepseek_layer_that_config_json_knows_nothing_of_is_not_used() -> None:
    with pytest.raises(InvalidCheckpoint, match=r"layers\.26.*is missing"):
        _plan(deepseek_v2.CONFIG, deepseek_v2.tensors(), num_hidden_layers=27)


def test_plain_queries_get_a_rank_of_zero_where_llama_cpp_asks_for_one() -> None:
    asked = _plan(deepseek_v2.CONFIG, deepseek_v2.tensors(), num_hidden_layers=3)
    known = _plan(deepseek_v2.CONFIG, deepseek_v2.tensors())

    assert asked.metadata["deepseek2.attention.q_lora_rank"].value == 0
    assert "deepseek2.attention.q_lora_rank" not in known.metadata


def test_key_and_value_weights_of_another_size_are_refused() -> None:
    with pytest.raises(InvalidCheckpoint, match="kv_b_proj"):
        _plan(deepseek_v2.CONFIG, deepseek_v2.tensors(), v_head_dim=32)


def test_group_limited_routing_of_deepseek_v2_is_noted() -> None:
    plan = _plan(deepseek_v2.CONFIG, deepseek_v2.tensors(), topk_method="group_limited_greedy")

    assert "groups of experts" in plan.notes[0]


def test_glm_converts_with_and_without_its_prediction_layer() -> None:
    tensors = glm4_moe.tensors()
    whole = _plan(glm4_moe.CONFIG, tensors)
    cut = _plan(glm4_moe.CONFIG, _without(tensors, "layers.3."))

    assert (whole.n_layer, cut.n_layer) == (4, 3)
    assert cut.metadata["glm4moe.block_count"].value == 3
    assert "glm4moe.nextn_predict_layers" not in cut.metadata


def test_glm_rotates_half_a_head_where_config_json_does_not_say() -> None:
    plan = _plan(glm4_moe.CONFIG, glm4_moe.tensors(), partial_rotary_factor=None)

    assert plan.metadata["glm4moe.rope.dimension_count"].value == 32


@pytest.mark.parametrize("share", [0, 1.5])
def test_a_rotated_share_that_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(InvalidCheckpoint, match="partial_rotary_factor"):
        _plan(glm4_moe.CONFIG, glm4_moe.tensors(), partial_rotary_factor=share)


def test_gpt_oss_with_other_windows_than_every_second_is_refused() -> None:
    kinds = ["full_attention", "sliding_attention"]

    with pytest.raises(UnsupportedCheckpoint, match="every other layer"):
        _plan(gpt_oss.CONFIG, gpt_oss.tensors(), layer_types=kinds)


def test_gpt_oss_with_another_swiglu_limit_is_refused() -> None:
    with pytest.raises(UnsupportedCheckpoint, match=r"9\.0"):
        _plan(gpt_oss.CONFIG, gpt_oss.tensors(), swiglu_limit=9.0)


def test_gpt_oss_without_scales_is_refused() -> None:
    with pytest.raises(InvalidCheckpoint, match="down_proj_scales"):
        _plan(gpt_oss.CONFIG, _without(gpt_oss.tensors(), "down_proj_scales"))


def test_a_tied_gpt_oss_gets_an_output_of_its_own_because_its_loader_wants_one() -> None:
    tensors = _without(gpt_oss_bf16.tensors(), "lm_head")
    plan = _plan(gpt_oss_bf16.CONFIG, tensors, tie_word_embeddings=True)

    assert "output.weight" in {tensor.name for tensor in plan.tensors}


def test_granite_with_its_own_head_size_is_refused() -> None:
    with pytest.raises(UnsupportedCheckpoint, match="heads of 32 dimensions"):
        _plan(granite_moe.CONFIG, granite_moe.tensors(), head_dim=64)


@pytest.mark.parametrize(
    ("name", "value"), [("norm_topk_prob", False), ("use_expert_bias", False), ("routed_scaling_factor", 2.0)]
)
def test_lfm2_with_another_router_is_refused(name: str, value: float) -> None:
    with pytest.raises(UnsupportedCheckpoint, match=name):
        _plan(lfm2_moe.CONFIG, lfm2_moe.tensors(), **{name: value})


def test_lfm2_must_say_the_kind_of_every_layer() -> None:
    with pytest.raises(InvalidCheckpoint, match="each of the 4 layers"):
        _plan(lfm2_moe.CONFIG, lfm2_moe.tensors(), layer_types=["conv", "full_attention"])


@pytest.mark.parametrize(("name", "value"), [("moe_layer_interval", 2), ("moe_layer_end_index", 1)])
def test_ernie_with_dense_layers_in_between_is_refused(name: str, value: int) -> None:
    with pytest.raises(UnsupportedCheckpoint, match=f"{name} is {value}"):
        _plan(ernie_moe.CONFIG, ernie_moe.tensors(), **{name: value})


def test_ernie_with_fused_dense_blocks_has_the_gate_first() -> None:
    tensors = _without(_without(ernie_moe.tensors(), "layers.0.mlp.gate"), "layers.0.mlp.up")
    fused = "model.layers.0.mlp.up_gate_proj.weight"
    plan = _plan(ernie_moe.CONFIG, [*tensors, (fused, (512, 128), "BF16")])

    rows = {tensor.name: tensor.parts[0].first_row for tensor in plan.tensors if "blk.0." in tensor.name}

    assert (rows["blk.0.ffn_gate.weight"], rows["blk.0.ffn_up.weight"]) == (0, 256)


@pytest.mark.parametrize("name", ["decoder_sparse_step", "mlp_only_layers", "linear_value_head_dim"])
def test_qwen3_next_with_another_plan_of_layers_is_refused(name: str) -> None:
    value = {"decoder_sparse_step": 2, "mlp_only_layers": [1], "linear_value_head_dim": 64}[name]

    with pytest.raises(UnsupportedCheckpoint):
        _plan(qwen3_next.CONFIG, qwen3_next.tensors(), **{name: value})


def test_the_vision_part_of_qwen3_5_is_left_out_with_a_note() -> None:
    plan = _plan(qwen3_5_moe.CONFIG, qwen3_5_moe.tensors())

    assert "model.visual.merger.norm.bias" in plan.ignored
    assert "vision" in plan.notes[0]


def test_gemma4_without_experts_is_refused_with_a_way_out() -> None:
    with pytest.raises(UnsupportedCheckpoint, match="only the models with experts") as caught:
        _plan(gemma4_moe.CONFIG, gemma4_moe.tensors(), enable_moe_block=False)

    assert "--bridge" in caught.value.hint


def test_gemma4_as_transformers_5_saves_it_says_head_sizes_layer_by_layer() -> None:
    of_full = {"2": {"head_dim": 64, "num_key_value_heads": 1}}
    saved = {"global_head_dim": None, "num_global_key_value_heads": None, "per_layer_config": of_full}
    published = _plan(gemma4_moe.CONFIG, gemma4_moe.tensors())
    plan = _plan(gemma4_moe.CONFIG, gemma4_moe.tensors(), **saved)

    assert plan.metadata == published.metadata


def test_a_rotary_scaling_that_needs_factors_is_refused() -> None:
    rope = {"rope_type": "longrope", "factor": 4.0}

    with pytest.raises(UnsupportedCheckpoint, match="longrope"):
        _plan(glm4_moe.CONFIG, glm4_moe.tensors(), rope_scaling=rope)
