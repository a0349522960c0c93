from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType

from edgeapp.errors import InvalidCheckpoint, UnsupportedCheckpoint
from edgeapp_converters.arch import experts
from edgeapp_converters.arch.assembly import Assembly, stays_f32
from edgeapp_converters.arch.permutation import copy_interleaved
from edgeapp_converters.plan import Encoding
from edgeapp_converters.source import SourceTensor


def _assembly(*tensors: tuple[str, tuple[int, ...]], dtype: str = "BF16") -> Assembly:
    found = {
        name: SourceTensor(name=name, dtype=dtype, shape=shape, shard="a", offset_bytes=0, n_bytes=0)
        for name, shape in tensors
    }
    return Assembly(found)


def test_a_tensor_that_nothing_uses_is_named_and_refused() -> None:
    assembly = _assembly(("a.weight", (4, 4)), ("b.surprise", (2,)))
    assembly.copy("token_embd.weight", "a.weight")

    with pytest.raises(UnsupportedCheckpoint, match=r"1 tensors .* b\.surprise") as caught:
        assembly.finish()

    assert "--bridge" in caught.value.hint


def test_of_many_unknown_tensors_three_are_named() -> None:
    assembly = _assembly(*[(f"odd.{i}", (2,)) for i in range(9)])

    with pytest.raises(UnsupportedCheckpoint, match=r"9 tensors .* odd\.0, odd\.1, odd\.2, …"):
        assembly.finish()


def test_a_name_with_control_characters_is_shown_without_them() -> None:
    assembly = _assembly(("evil\x1b]52;c;AAAA\x07", (2,)))

    with pytest.raises(UnsupportedCheckpoint) as caught:
        assembly.finish()

    assert "\x1b" not in caught.value.message


def test_buffers_that_old_checkpoints_hold_are_left_out() -> None:
    assembly = _assembly(("model.layers.0.self_attn.rotary_emb.inv_freq", (8,)))

    assert assembly.finish() == ()
    assert assembly.ignored == ["model.layers.0.self_attn.rotary_emb.inv_freq"]


def test_a_missing_tensor_is_named() -> None:
    with pytest.raises(InvalidCheckpoint, match=r"Tensor model\.norm\.weight is missing"):
        _assembly().copy("output_norm.weight", "model.norm.weight")


def test_a_missing_expert_is_named() -> None:
    shapes = [
        (f"mlp.{expert}.{name}.weight", (4, 8))
        for expert in (0, 2)
        for name in ("gate_proj", "up_proj", "down_proj")
    ]

    with pytest.raises(InvalidCheckpoint, match=r"mlp\.1\.gate_proj\.weight is missing"):
        experts.routed(_assembly(*shapes), "blk.0", "mlp", 3)


def test_experts_of_different_shapes_are_refused() -> None:
    assembly = _assembly(("e.0", (4, 8)), ("e.1", (4, 6)))

    with pytest.raises(InvalidCheckpoint, match=r"e\.1 has shape \[4, 6\], but \[4, 8\] is needed"):
        assembly.stack("blk.0.ffn_up_exps.weight", ["e.0", "e.1"])


def test_stacked_experts_must_be_as_many_as_the_configuration_says() -> None:
    assembly = _assembly(("mlp.gate_up_proj", (4, 8, 2)), ("mlp.down_proj", (4, 2, 4)))

    with pytest.raises(InvalidCheckpoint, match="5 experts"):
        experts.routed(assembly, "blk.0", "mlp", 5)


def test_both_layouts_of_experts_make_the_same_gguf_tensors() -> None:
    stacked = _assembly(("mlp.gate_up_proj", (2, 8, 6)), ("mlp.down_proj", (2, 6, 4)))
    one_by_one = _assembly(
        *[(f"mlp.{e}.{name}_proj.weight", (4, 6)) for e in range(2) for name in ("gate", "up")],
        *[(f"mlp.{e}.down_proj.weight", (6, 4)) for e in range(2)],
    )
    for assembly in (stacked, one_by_one):
        experts.routed(assembly, "blk.0", "mlp", 2)

    assert [(p.name, p.shape) for p in stacked.plans] == [(p.name, p.shape) for p in one_by_one.plans]


def test_the_up_rows_of_a_stack_come_after_the_gate_rows_of_each_expert() -> None:
    assembly = _assembly(("mlp.gate_up_proj", (3, 8, 6)), ("mlp.down_proj", (3, 6, 4)))
    experts.routed(assembly, "blk.0", "mlp", 3)

    up = next(plan for plan in assembly.plans if plan.name == "blk.0.ffn_up_exps.weight")

    assert [(p.target_row, p.first_row, p.n_rows, p.expert) for p in up.parts] == [
        (0, 4, 4, 0),
        (4, 12, 4, 1),
        (8, 20, 4, 2),
    ]


def test_rows_behind_the_end_of_a_matrix_are_refused() -> None:
    with pytest.raises(InvalidCheckpoint, match="has 6 rows, but rows 4 to 8 are needed"):
        _assembly(("fused", (6, 2))).rows("blk.0.ffn_up.weight", "fused", 4, 4)


def test_another_shape_must_hold_as_many_elements() -> None:
    with pytest.raises(InvalidCheckpoint, match="needs 6 elements"):
        _assembly(("conv", (4, 1, 2))).copy("blk.0.shortconv.conv.weight", "conv", (3, 2))


def test_outer_dimensions_of_one_are_dropped_as_llama_quantize_does() -> None:
    assembly = _assembly(("gate", (1, 8)))
    assembly.copy("blk.0.ffn_gate_inp_shexp.weight", "gate")

    (plan,) = assembly.finish()

    assert (plan.shape, plan.n_rows) == ((8,), 1)


def test_an_fp8_weight_takes_its_scales_along() -> None:
    assembly = _assembly(("w", (4, 4)), ("w_scale_inv", (1, 1)), dtype="F8_E4M3")
    assembly.copy("blk.0.attn_q.weight", "w")

    (plan,) = assembly.finish()

    assert plan.parts[0].encoding is Encoding.FP8_BLOCK
    assert plan.parts[0].scale == "w_scale_inv"


def test_an_fp8_weight_without_scales_is_refused() -> None:
    with pytest.raises(InvalidCheckpoint, match="w_scale_inv is missing"):
        _assembly(("w", (4, 4)), dtype="F8_E4M3").copy("blk.0.attn_q.weight", "w")


def test_an_fp8_weight_with_scales_by_row_is_refused_with_a_way_out() -> None:
    assembly = _assembly(("w", (4, 4)), ("w_scale", (4, 1)), dtype="F8_E4M3")

    with pytest.raises(UnsupportedCheckpoint, match="compressed-tensors") as caught:
        assembly.copy("blk.0.attn_q.weight", "w")

    assert "--bridge" in caught.value.hint


@pytest.mark.parametrize("end", [".qweight", ".weight_packed"])
def test_weights_packed_as_integers_are_refused_and_not_called_missing(end: str) -> None:
    with pytest.raises(UnsupportedCheckpoint, match=r"q_proj\.weight is quantised to integers"):
        _assembly((f"q_proj{end}", (4, 4))).copy("blk.0.attn_q.weight", "q_proj.weight")


@pytest.mark.parametrize(
    ("name", "shape", "stays"),
    [
        ("blk.0.attn_norm.weight", (8,), True),
        ("blk.0.ffn_gate_inp.weight", (4, 8), True),
        ("blk.0.ffn_gate_exps.bias", (4, 8), True),
        ("blk.0.shortconv.conv.weight", (8, 3), True),
        ("blk.0.attn_q.weight", (8, 8), False),
        ("blk.0.ffn_gate_exps.weight", (4, 8, 8), False),
    ],
)
def test_vectors_norms_routers_and_biases_stay_f32(name: str, shape: tuple[int, ...], *, stays: bool) -> None:
    assert stays_f32(name, shape) is stays


def test_computed_values_are_f32() -> None:
    assembly = _assembly()
    assembly.values("rope_freqs.weight", np.ones(4, np.float32))

    (plan,) = assembly.finish()

    assert plan.shape == (4,)
    assert plan.fixed_type is GGMLQuantizationType.F32


def test_interleaving_pairs_each_dimension_with_the_one_half_a_head_further() -> None:
    assembly = _assembly(("q.weight", (8, 4)), ("q.bias", (8,)))
    copy_interleaved(assembly, "blk.0.attn_q", "q", 2)

    weight, bias = assembly.finish()

    order = [0, 2, 1, 3, 4, 6, 5, 7]
    assert weight.parts[0].row_order is not None
    assert weight.parts[0].row_order.tolist() == order
    assert bias.parts[0].column_order is not None
    assert bias.parts[0].column_order.tolist() == order


def test_heads_that_do_not_divide_the_rows_are_refused() -> None:
    with pytest.raises(InvalidCheckpoint, match="has 10 rows, which 4 heads cannot share"):
        copy_interleaved(_assembly(("q.weight", (10, 4))), "blk.0.attn_q", "q", 4)
