"""Recipes: what the shipped ones say, and that llama.cpp's own are chosen as llama.cpp chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType

from edgeapp.errors import UsageError
from edgeapp.paths import data_dir
from edgeapp_converters.metadata import i32s, u32
from edgeapp_converters.plan import ModelPlan, TensorPlan
from edgeapp_converters.recipe import (
    bytes_per_token,
    choose_types,
    default_recipe,
    file_bytes,
    load_recipe,
    summary,
    tensor_class,
)
from tests.converters.official_quantiser import Job, official_types

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp_converters.metadata import MetaValue

Q = GGMLQuantizationType
SHIPPED = sorted(path.stem for path in (data_dir() / "recipes").glob("*.toml"))
OFFICIAL = ("q4_k_m", "iq4_xs", "q8_0")


def model(
    *,
    architecture: str = "llama",
    n_layer: int = 2,
    n_expert: int = 0,
    n_head: int = 4,
    n_head_kv: int = 2,
    columns: int = 256,
    hidden: int = 256,
    tied: bool = False,
    fused: bool = False,
    latent: bool = False,
) -> ModelPlan:
    """Tensors in llama.cpp's names, and the keys that its rule looks at."""
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (8, columns), "output_norm.weight": (columns,)}
    if not tied:
        shapes["output.weight"] = (8, columns)
    for layer in range(n_layer):
        block = f"blk.{layer}"
        shapes[f"{block}.attn_norm.weight"] = (columns,)
        shapes |= _attention(block, columns, fused=fused, latent=latent)
        shapes |= _feed_forward(block, columns, hidden, n_expert)
    keys: dict[str, MetaValue] = {
        "block_count": u32(n_layer),
        "attention.head_count": u32(n_head),
        "attention.head_count_kv": u32(n_head_kv),
    }
    return ModelPlan(
        architecture=architecture,
        metadata={f"{architecture}.{key}": value for key, value in keys.items()},
        tensors=tuple(TensorPlan(name=name, shape=shape) for name, shape in shapes.items()),
        n_layer=n_layer,
        n_expert=n_expert,
        n_expert_used=min(n_expert, 2),
    )


def _attention(block: str, columns: int, *, fused: bool, latent: bool) -> dict[str, tuple[int, ...]]:
    names = ["attn_q", "attn_k", "attn_v", "attn_output"]
    if fused:
        names = ["attn_qkv", "attn_output"]
    if latent:
        names = ["attn_q", "attn_kv_a_mqa", "attn_k_b", "attn_v_b", "attn_output"]
    return {f"{block}.{name}.weight": (2, columns) for name in names} | {f"{block}.attn_q.bias": (2,)}


def _feed_forward(block: str, columns: int, hidden: int, n_expert: int) -> dict[str, tuple[int, ...]]:
    if not n_expert:
        shapes = {"gate": (2, columns), "up": (2, columns), "down": (2, hidden)}
        return {f"{block}.ffn_{name}.weight": shape for name, shape in shapes.items()}
    return {
        f"{block}.ffn_gate_inp.weight": (n_expert, columns),
        f"{block}.ffn_gate_exps.weight": (n_expert, 1, columns),
        f"{block}.ffn_up_exps.weight": (n_expert, 1, columns),
        f"{block}.ffn_down_exps.weight": (n_expert, 1, hidden),
        f"{block}.ffn_down_shexp.weight": (2, hidden),
    }


def write(plan: ModelPlan, path: Path) -> Path:
    """Write `plan` as an F32 GGUF of zeros with as many keys as the quantiser reads."""
    writer = GGUFWriter(path, plan.architecture)
    columns = plan.tensors[0].columns
    writer.add_context_length(64)
    writer.add_embedding_length(columns)
    writer.add_feed_forward_length(64)
    writer.add_vocab_size(8)
    writer.add_layer_norm_rms_eps(1e-5)
    if plan.n_expert:
        writer.add_expert_count(plan.n_expert)
        writer.add_expert_used_count(plan.n_expert_used)
        writer.add_expert_feed_forward_length(64)
    for key, value in plan.metadata.items():
        assert isinstance(value.value, int | tuple)
        if isinstance(value.value, tuple):
            writer.add_array(key, list(value.value))
        else:
            writer.add_uint32(key, int(value.value))
    for tensor in plan.tensors:
        writer.add_tensor(tensor.name, np.zeros(tensor.shape, np.float32), raw_dtype=Q.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


CASES = {
    "dense": model(n_layer=32),
    "dense and tied": model(n_layer=17, tied=True),
    "four experts": model(n_layer=32, n_expert=4),
    "eight experts": model(n_layer=16, n_expert=8),
    "many queries per key": model(n_layer=16, n_head=8, n_head_kv=2),
    "three queries per key": model(n_layer=16, n_head=6, n_head_kv=2),
    "many queries and eight experts": model(n_layer=16, n_expert=8, n_head=8, n_head_kv=1),
    "rows of 96": model(n_layer=8, n_expert=4, columns=96, hidden=96, n_head=4),
    "rows of 96, tied": model(n_layer=8, columns=96, hidden=96, tied=True),
    "rows of 80": model(n_layer=8, columns=80, hidden=48),
    "hidden rows of 96": model(n_layer=9, n_expert=4, hidden=96),
    "fused query, key and value": model(n_layer=24, fused=True),
    "latent attention": model(n_layer=12, n_expert=4, latent=True),
    "eighty layers": model(n_layer=80, n_head=8, n_head_kv=1),
    "eighty layers, a key per query": model(n_layer=80, n_head=4, n_head_kv=4),
    "eighty layers of Qwen2": model(architecture="qwen2", n_layer=80, n_head=4, n_head_kv=4),
    "eighty layers of Qwen3": model(architecture="qwen3", n_layer=80, n_head=8, n_head_kv=1),
    "one layer": model(n_layer=1),
    "Qwen3-MoE": model(architecture="qwen3moe", n_layer=12, n_expert=16),
}


@pytest.fixture(scope="module")
def official(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[tuple[str, str], dict[str, GGMLQuantizationType]]:
    """What llama.cpp's quantiser chose, by case and recipe; with an importance matrix under `+ imatrix`."""
    folder = tmp_path_factory.mktemp("official")
    jobs: dict[tuple[str, str], Job] = {}
    for number, (case, plan) in enumerate(CASES.items()):
        source = write(plan, folder / f"{number}.gguf")
        for recipe in OFFICIAL:
            for suffix in ("", " + imatrix"):
                jobs[case, recipe + suffix] = Job(
                    model=str(source),
                    output=str(folder / f"{number}-{recipe}{suffix}.gguf"),
                    file_type=load_recipe(recipe).file_type,
                    has_imatrix=bool(suffix),
                )
    return dict(zip(jobs, official_types(tuple(jobs.values())), strict=True))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("recipe", OFFICIAL)
@pytest.mark.parametrize("suffix", ["", " + imatrix"])
def test_types_are_those_of_the_official_quantiser(
    case: str, recipe: str, suffix: str, official: dict[tuple[str, str], dict[str, GGMLQuantizationType]]
) -> None:
    ours = choose_types(CASES[case], load_recipe(recipe), has_imatrix=bool(suffix))

    assert {tensor.plan.name: tensor.type for tensor in ours} == official[case, recipe + suffix]


def test_only_iq4_xs_depends_on_an_importance_matrix() -> None:
    changed = [
        recipe
        for recipe in OFFICIAL
        if choose_types(CASES["dense"], load_recipe(recipe), has_imatrix=True)
        != choose_types(CASES["dense"], load_recipe(recipe), has_imatrix=False)
    ]

    assert changed == ["iq4_xs"]


def test_per_layer_heads_count_by_the_first_layer() -> None:
    keys = {"llama.attention.head_count_kv": i32s([0, 1]), "llama.attention.head_count": u32(8)}
    plan = model()
    hybrid = ModelPlan(architecture="llama", metadata=plan.metadata | keys, tensors=plan.tensors, n_layer=2)

    types = {one.plan.name: one.type for one in choose_types(hybrid, load_recipe("iq4_xs"), has_imatrix=True)}

    assert types["blk.1.attn_v.weight"] == Q.IQ4_XS


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_load_under_their_own_name(name: str) -> None:
    recipe = load_recipe(name)

    assert recipe.name == name
    assert recipe.file_type in set(LlamaFileType)


def test_moe4_gives_experts_four_bits_and_everything_else_more() -> None:
    tensors = choose_types(model(n_expert=4), load_recipe("moe4"), has_imatrix=False)
    types = {tensor.plan.name: tensor.type for tensor in tensors}

    assert types["blk.0.ffn_gate_exps.weight"] == types["blk.0.ffn_up_exps.weight"] == Q.Q4_K
    assert types["blk.0.ffn_down_exps.weight"] == Q.Q5_K
    assert types["blk.0.attn_q.weight"] == types["blk.0.ffn_down_shexp.weight"] == Q.Q8_0
    assert types["token_embd.weight"] == types["output.weight"] == Q.Q6_K
    assert types["blk.0.ffn_gate_inp.weight"] == types["blk.0.attn_norm.weight"] == Q.F32


def test_outer_layers_get_types_of_their_own() -> None:
    tensors = choose_types(model(n_layer=16, n_expert=4), load_recipe("moe4-small"), has_imatrix=False)

    downs = [tensor.type for tensor in tensors if "ffn_down_exps" in tensor.plan.name]
    assert downs == [Q.Q5_K] * 2 + [Q.IQ4_XS] * 12 + [Q.Q5_K] * 2


def test_a_type_that_is_fixed_stays() -> None:
    blocks = TensorPlan(name="blk.0.ffn_up_exps.weight", shape=(2, 4, 64), fixed_type=Q.MXFP4)
    plan = ModelPlan(architecture="gpt-oss", metadata={}, tensors=(blocks,), n_layer=1, n_expert=2)

    for name in ("moe4", "q4_k_m", "native"):
        (tensor,) = choose_types(plan, load_recipe(name), has_imatrix=False)
        assert tensor.type == tensor.wanted == Q.MXFP4


@pytest.mark.parametrize("name", ["f16", "bf16", "moe4"])
def test_a_vector_is_always_f32(name: str) -> None:
    tensors = choose_types(model(), load_recipe(name), has_imatrix=False)

    assert {tensor.type for tensor in tensors if len(tensor.plan.shape) == 1} == {Q.F32}


def test_the_default_follows_the_model() -> None:
    blocks = TensorPlan(name="blk.0.ffn_up_exps.weight", shape=(2, 4, 64), fixed_type=Q.MXFP4)
    native = ModelPlan(architecture="gpt-oss", metadata={}, tensors=(blocks,), n_layer=1, n_expert=2)

    assert [default_recipe(plan).name for plan in (model(), model(n_expert=4), native)] == [
        "q4_k_m",
        "moe4",
        "native",
    ]


def test_the_summary_tells_the_real_size_and_every_fallback() -> None:
    plan = ModelPlan(
        architecture="llama",
        metadata={},
        tensors=(
            TensorPlan(name="blk.0.attn_q.weight", shape=(10, 256)),
            TensorPlan(name="blk.0.ffn_up.weight", shape=(10, 96)),
        ),
        n_layer=1,
    )

    told = summary(choose_types(plan, load_recipe("q4_k_m"), has_imatrix=False))

    assert told.n_bytes == 10 * 144 + 10 * 3 * 22
    assert told.bits_per_weight == pytest.approx((1440 + 660) * 8 / 3520)
    assert told.types == {"Q4_K": 2560, "Q5_0": 960}
    assert [(one.name, one.wanted, one.got) for one in told.fallbacks] == [
        ("blk.0.ffn_up.weight", "Q4_K", "Q5_0")
    ]


def test_a_token_reads_only_the_experts_it_uses() -> None:
    plan = model(n_expert=4)
    tensors = choose_types(plan, load_recipe("q8_0"), has_imatrix=False)
    by_name = {tensor.plan.name: tensor for tensor in tensors}

    read = bytes_per_token(plan, tensors)

    experts = sum(file_bytes(one) for name, one in by_name.items() if "_exps" in name)
    unused_rows = 7 * 272
    assert read == summary(tensors).n_bytes - experts // 2 - unused_rows


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("token_embd.weight", "embedding"),
        ("output.weight", "output"),
        ("blk.1.attn_kv_a_mqa.weight", "attention"),
        ("blk.1.ffn_gate_up_exps.weight", "routed_up"),
        ("blk.1.ffn_down_exps.weight", "routed_down"),
        ("blk.1.ffn_up_shexp.weight", "shared_expert"),
        ("blk.1.ffn_down.weight", "dense_ffn"),
        ("blk.1.ssm_out.weight", "recurrent"),
        ("blk.1.shortconv.in_proj.weight", "recurrent"),
        ("blk.1.something.weight", "default"),
    ],
)
def test_names_are_put_into_classes(name: str, kind: str) -> None:
    assert tensor_class(name) == kind


GOOD = 'name = "a"\ntitle = "A"\ndescription = "An A."\nfile_type = "MOSTLY_Q4_K_M"\n'


def test_a_recipe_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(GOOD + '[types]\ndefault = "Q5_K"\n')

    tensors = choose_types(model(), load_recipe(str(path)), has_imatrix=False)

    assert {tensor.type for tensor in tensors} == {Q.Q5_K, Q.F32}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD, "default"),
        (GOOD + 'colour = "red"\n[types]\ndefault = "Q5_K"\n', "colour"),
        (GOOD + '[types]\ndefault = "Q5_X"\n', "unknown type Q5_X"),
        (GOOD + '[types]\ndefault = "Q5_K"\nattn = "Q5_K"\n', "attn"),
        (GOOD.replace("Q4_K_M", "Q9") + '[types]\ndefault = "Q5_K"\n', "unknown file_type"),
        (GOOD.replace("Q4_K_M", "Q2_K") + 'rule = "llama-quantize"\n', "not known for MOSTLY_Q2_K"),
        (GOOD + '[types]\ndefault = "Q5_K"\n[outer]\nshare = 2\ntypes = {}\n', "0.5"),
        ("name = [", "not a recipe"),
    ],
)
def test_a_recipe_with_a_mistake_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)

    with pytest.raises(UsageError, match=reason):
        load_recipe(str(path))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no recipe 'moe5'") as caught:
        load_recipe("moe5")

    assert "moe4-small" in caught.value.hint
