"""What each layer keeps, for headers written by hand; the sizes are checked against llama.cpp elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgeapp.errors import InvalidModel
from edgeapp.gguf_info import GgufInfo, LayerCache, read_gguf_info
from tests.gguf_bytes import BOOL, U32, GgufBytes, TensorSpec, Value, array, model_keys, number, text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

N_LAYER = 8


def read(folder: Path, arch: str, keys: Mapping[str, Value], n_layer: int = N_LAYER) -> GgufInfo:
    """`keys` are those of the architecture; heads are 4, of which 2 for keys and values, of 16 values."""
    usual = {
        "block_count": number(n_layer),
        "context_length": number(64),
        "embedding_length": number(64),
        "attention.head_count": number(4),
        "attention.head_count_kv": number(2),
    }
    general = {key: value for key, value in model_keys().items() if not key.startswith("llama.")}
    general["general.architecture"] = text(arch)
    stated = general | {f"{arch}.{key}": value for key, value in (usual | dict(keys)).items()}
    path = folder / "model.gguf"
    path.write_bytes(GgufBytes(keys=list(stated.items())).encode())
    return read_gguf_info(path)


def windows(info: GgufInfo) -> list[int]:
    return [layer.window for layer in info.cache.layers]


FULL = LayerCache(k_values=32, v_values=32)


def test_every_layer_with_attention_keeps_keys_and_values(tmp_path: Path) -> None:
    info = read(tmp_path, "llama", {})
    assert info.cache.layers == (FULL,) * N_LAYER
    assert (info.cache.is_exact, info.cache.head_dims, info.is_recurrent) == (True, (16,), False)
    assert info.kv_bytes_per_token == N_LAYER * 64 * 2


@pytest.mark.parametrize(
    ("arch", "keys", "expected"),
    [
        ("gpt-oss", {}, [9, 0] * 4),
        ("gemma3", {}, [9, 9, 9, 9, 9, 0, 9, 9]),
        ("laguna", {}, [0, 9, 9, 9] * 2),
        ("mellum", {"attention.sliding_window_pattern": number(2)}, [9, 0] * 4),
        ("mellum", {"attention.sliding_window_pattern": number(0)}, [9] * 8),
        ("step35", {"attention.sliding_window_pattern": array(BOOL, [1, 0, 0, 1, 0, 0, 0, 1])}, None),
        ("llama4", {}, [8192, 8192, 8192, 0] * 2),
        ("smallthinker", {}, [0, 4096, 4096, 4096] * 2),
        ("llama", {}, [0] * 8),
        ("phi3", {}, [0] * 8),
        ("exaone4", {}, [0] * 8),
    ],
    ids=str,
)
def test_windows_follow_the_pattern_of_the_architecture(
    arch: str, keys: dict[str, Value], expected: list[int] | None, tmp_path: Path
) -> None:
    info = read(tmp_path, arch, {"attention.sliding_window": number(9)} | keys)
    assert windows(info) == (expected or [9, 0, 0, 9, 0, 0, 0, 9])


def test_a_window_of_nothing_is_none_and_a_missing_one_is_the_architectures(tmp_path: Path) -> None:
    assert windows(read(tmp_path, "llama4", {"attention.sliding_window": number(0)})) == [0] * 8
    assert windows(read(tmp_path, "llama4", {})) == [8192, 8192, 8192, 0] * 2
    assert windows(read(tmp_path, "gemma3", {})) == [0] * 8


def test_heads_in_a_window_can_have_another_size(tmp_path: Path) -> None:
    keys = {
        "attention.sliding_window": number(9),
        "attention.sliding_window_pattern": array(BOOL, [1] * 7 + [0]),
        "attention.key_length_swa": number(8),
        "attention.value_length_swa": number(4),
        "attention.shared_kv_layers": number(2),
    }
    layers = read(tmp_path, "gemma4", keys).cache.layers
    assert layers[:6] == (LayerCache(k_values=16, v_values=8, window=9),) * 6
    assert layers[6:] == (LayerCache(),) * 2, "they read the cache of an earlier layer"


def test_a_latent_key_is_the_value_too(tmp_path: Path) -> None:
    keys = {
        "attention.head_count_kv": number(1),
        "attention.key_length": number(40),
        "attention.value_length": number(32),
        "attention.key_length_mla": number(12),
        "attention.value_length_mla": number(8),
        "attention.kv_lora_rank": number(32),
    }
    assert read(tmp_path, "deepseek2", keys).cache.layers == (LayerCache(k_values=40),) * N_LAYER


def test_sparse_attention_keeps_one_more_key(tmp_path: Path) -> None:
    keys = {"attention.key_length_mla": number(12), "attention.indexer.key_length": number(24)}
    cache = read(tmp_path, "deepseek32", keys).cache
    assert cache.layers[0] == LayerCache(k_values=32, index_values=24)
    assert not cache.is_exact


def test_a_layer_without_key_value_heads_keeps_a_state(tmp_path: Path) -> None:
    keys = {
        "attention.head_count_kv": array(U32, [0, 2] * 4),
        "shortconv.l_cache": number(3),
    }
    info = read(tmp_path, "lfm2moe", keys)
    assert info.cache.layers == (LayerCache(state_values=64 * 2), FULL) * 4
    assert info.is_recurrent


def test_every_fourth_layer_has_attention_where_the_interval_says_so(tmp_path: Path) -> None:
    ssm = {
        "ssm.conv_kernel": number(4),
        "ssm.inner_size": number(128),
        "ssm.state_size": number(16),
        "ssm.group_count": number(2),
    }
    state = LayerCache(state_values=3 * (128 + 2 * 2 * 16) + 16 * 128)
    assert read(tmp_path, "qwen3next", ssm).cache.layers == (state, state, state, FULL) * 2
    every_second = ssm | {"full_attention_interval": number(2)}
    assert read(tmp_path, "qwen3next", every_second).cache.layers == (state, FULL) * 4
    stated = ssm | {"attention.recurrent_layers": array(BOOL, [0] * 7 + [1])}
    assert read(tmp_path, "qwen3next", stated).cache.layers == (FULL,) * 7 + (state,)


def test_a_state_space_model_keeps_nothing_else(tmp_path: Path) -> None:
    ssm = {"ssm.conv_kernel": number(4), "ssm.inner_size": number(128), "ssm.state_size": number(16)}
    info = read(tmp_path, "mamba", ssm | {"attention.head_count": number(0)})
    assert info.cache.layers == (LayerCache(state_values=3 * 128 + 16 * 128),) * N_LAYER
    assert info.kv_bytes_per_token is None
    rwkv = read(tmp_path, "rwkv7", {"attention.head_count": number(0), "wkv.head_size": number(8)})
    assert rwkv.cache.layers[0] == LayerCache(state_values=64 * (2 + 8))


def test_some_hybrids_have_both_in_a_layer_and_some_have_layers_without_either(tmp_path: Path) -> None:
    ssm = {"ssm.conv_kernel": number(1), "ssm.inner_size": number(8), "ssm.state_size": number(4)}
    both = read(tmp_path, "falcon-h1", ssm).cache.layers[0]
    assert both == LayerCache(k_values=32, v_values=32, state_values=32)
    keys = {
        "attention.head_count_kv": array(U32, [0, 2, 0] + [0] * 5),
        "feed_forward_length": array(U32, [0, 0] + [96] * 6),
    }
    layers = read(tmp_path, "nemotron_h", ssm | keys).cache.layers
    assert layers == (LayerCache(state_values=32), FULL) + (LayerCache(),) * 6


def test_a_layer_for_multi_token_prediction_keeps_nothing(tmp_path: Path) -> None:
    info = read(tmp_path, "glm4moe", {"nextn_predict_layers": number(1)})
    assert info.cache.layers == (FULL,) * 7 + (LayerCache(),)
    assert info.n_layer_nextn == 1


@pytest.mark.parametrize(
    ("arch", "keys"),
    [
        ("gpt-oss", {"attention.sliding_window": text("long")}),
        ("gpt-oss", {"attention.sliding_window": number(9), "attention.sliding_window_pattern": text("x")}),
        ("qwen3next", {"full_attention_interval": number(0)}),
        ("deepseek2", {"attention.key_length_mla": number(1 << 30)}),
    ],
    ids=["text", "text for a pattern", "interval of nothing", "huge"],
)
def test_nonsense_is_refused(arch: str, keys: dict[str, Value], tmp_path: Path) -> None:
    with pytest.raises(InvalidModel):
        read(tmp_path, arch, keys)


def test_bytes_are_told_apart_by_layer_and_kind(tmp_path: Path) -> None:
    names = [
        "token_embd.weight",
        "output_norm.weight",
        "blk.0.attn_q.weight",
        "blk.0.ffn_gate_up_exps.weight",
        "blk.0.ffn_up_exps.bias",
        "blk.0.ffn_down_exps.weight",
        "blk.0.ffn_up_shexp.weight",
        "blk.7.ffn_down_chexps.weight",
    ]
    path = tmp_path / "model.gguf"
    keys = model_keys(llama__block_count=number(N_LAYER))
    path.write_bytes(
        GgufBytes(keys=list(keys.items()), tensors=tuple(TensorSpec(name=name) for name in names)).encode()
    )
    found = read_gguf_info(path).tensors
    assert (found.input_bytes, found.embedding_bytes, found.output_bytes) == (128, 128, 128)
    assert not found.has_output
    first, last = found.layers[0], found.layers[7]
    assert (first.dense_bytes, first.gate_up_bytes, first.down_bytes) == (256, 256, 128)
    assert (first.dense_parameters, first.expert_parameters) == (64, 96)
    assert (last.dense_bytes, last.down_bytes) == (0, 128)
