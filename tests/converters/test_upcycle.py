"""A dense model becomes a Mixture of Experts that computes the same, with a tokenizer that says the same."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from tokenizers import Tokenizer

from edgeapp.errors import ConversionFailed, InvalidModel, UnsupportedModel
from edgeapp.gguf_info import read_gguf_info
from edgeapp.gguf_info.parts import read_header
from edgeapp.protocol import Load
from edgeapp.runtime import measuring
from edgeapp.runtime.worker_client import WorkerClient
from edgeapp_converters import arch
from edgeapp_converters.checkpoint import open_folder
from edgeapp_converters.dense_tokenizer import read_dense_tokenizer, tokenizer_files
from edgeapp_converters.events import StageProgress
from edgeapp_converters.metadata import Metadata, i32s, string, strings, u32
from edgeapp_converters.plan import TypedTensor
from edgeapp_converters.tokenizer import read_tokenizer
from edgeapp_converters.upcycle import build_demo_checkpoint, upcycle
from edgeapp_converters.writer import write_gguf
from tests.converters.tiny_dense import GEOMETRY, N_LAYER, write_tiny_dense

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeapp_converters.events import ConversionEvent

TEXT = "The lighthouse keeper wrote 1847 in the log, and then: 'no ships, no fog, no news'. "


def ignore(_event: ConversionEvent) -> None:
    pass


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_dense(tmp_path_factory.mktemp("dense") / "dense.gguf")


def converted(folder: Path, dense: Path) -> Path:
    """Write the checkpoint in `folder` as an F32 GGUF with the vocabulary of `dense`."""
    checkpoint = open_folder(folder)
    plan = arch.plan_model(checkpoint.config, checkpoint.source.tensors)
    f32 = GGMLQuantizationType.F32
    target = folder.with_suffix(".gguf")
    part = write_gguf(
        target,
        metadata={"general.architecture": string("llama")} | plan.metadata | vocabulary(dense),
        tensors=[TypedTensor(plan=tensor, type=f32, wanted=f32) for tensor in plan.tensors],
        source=checkpoint.source,
        imatrix=None,
        n_threads=1,
        fingerprint="test",
        report=ignore,
    )
    part.commit()
    part.close()
    checkpoint.source.close()
    return target


def vocabulary(dense: Path) -> Metadata:
    header = read_header(dense)
    tokenizer = read_dense_tokenizer(header, max_tokens=512)
    types = [3 if token_id in tokenizer.special_ids else 1 for token_id in range(len(tokenizer.tokens))]
    return {
        "tokenizer.ggml.model": string("gpt2"),
        "tokenizer.ggml.pre": string("smollm"),
        "tokenizer.ggml.tokens": strings(tokenizer.tokens),
        "tokenizer.ggml.token_type": i32s(types),
        "tokenizer.ggml.merges": strings(tokenizer.merges),
        "tokenizer.ggml.eos_token_id": u32(tokenizer.named_ids["eos_token"]),
    }


async def logits(model: Path) -> NDArray[np.float32]:
    load = Load(id=0, path=str(model), n_ctx=256, n_threads=1, n_outputs=64, kv_type="f32")
    client = WorkerClient(load)
    try:
        tokens = await client.tokenize(TEXT)
        async with measuring.evaluate(client, tokens[:48]) as rows:
            return np.array(rows)
    finally:
        await client.aclose()


@pytest.mark.parametrize(("pad_to", "tied"), [(1, True), (256, True), (64, False)])
async def test_the_moe_computes_what_the_dense_model_does(tmp_path: Path, pad_to: int, tied: bool) -> None:  # noqa: FBT001 - a case
    dense = write_tiny_dense(tmp_path / "dense.gguf", tied=tied)
    upcycle(dense, tmp_path / "moe", pad_to=pad_to, dtype="F32", report=ignore)
    moe = converted(tmp_path / "moe", dense)

    expected, found = await logits(dense), await logits(moe)
    assert read_gguf_info(moe).n_expert == 4
    assert expected.std() > 0.5
    assert np.abs(found - expected).max() < 1e-4
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()


async def test_quantised_weights_lose_no_more_than_half_precision_does(tmp_path: Path) -> None:
    dense = write_tiny_dense(tmp_path / "dense.gguf", kind=GGMLQuantizationType.Q8_0)
    upcycle(dense, tmp_path / "exact", dtype="F32", report=ignore)
    upcycle(dense, tmp_path / "half", dtype="F16", report=ignore)

    exact = await logits(converted(tmp_path / "exact", dense))
    half = await logits(converted(tmp_path / "half", dense))
    assert np.abs(half - exact).max() < 0.02 * exact.std()


def test_padding_makes_every_matrix_row_a_multiple(dense: Path, tmp_path: Path) -> None:
    upcycle(dense, tmp_path / "moe", pad_to=256, report=ignore)
    checkpoint = open_folder(tmp_path / "moe")
    shapes = {name: tensor.shape for name, tensor in checkpoint.source.tensors.items()}
    checkpoint.source.close()
    assert {shape[-1] % 256 for shape in shapes.values()} == {0}
    assert checkpoint.config["hidden_size"] == 256
    assert checkpoint.config["num_attention_heads"] == 16
    assert checkpoint.config["num_key_value_heads"] == GEOMETRY.n_head_kv
    assert checkpoint.config["intermediate_size"] == 256


def test_experts_are_the_same_and_the_given_router_is_kept(dense: Path, tmp_path: Path) -> None:
    router = np.random.default_rng(1).standard_normal((N_LAYER, 3, GEOMETRY.n_embd), dtype=np.float32)
    upcycle(dense, tmp_path / "moe", n_expert=3, n_expert_used=1, router=router, report=ignore)
    source = open_folder(tmp_path / "moe").source

    def content(name: str) -> bytes:
        tensor = source.tensors[f"model.layers.1.block_sparse_moe.{name}.weight"]
        data = bytearray(tensor.n_bytes)
        source.read(tensor, 0, memoryview(data))
        return bytes(data)

    for matrix in ("w1", "w2", "w3"):
        assert len({content(f"experts.{expert}.{matrix}") for expert in range(3)}) == 1
    stored = np.frombuffer(content("gate"), dtype=np.float32).reshape(3, 256)
    source.close()
    assert (stored[:, : GEOMETRY.n_embd] == router[1]).all()
    assert not stored[:, GEOMETRY.n_embd :].any()


def test_the_demo_tokenizer_is_recognised_and_comes_back_whole(demo_model: Path, tmp_path: Path) -> None:
    header = read_header(demo_model)
    files = tokenizer_files(read_dense_tokenizer(header, max_tokens=8192))
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    keys = read_tokenizer(
        tmp_path,
        config={"vocab_size": 49152, "architectures": ["MixtralForCausalLM"]},
        architecture="llama",
        pre=None,
        report=ignore,
    )
    assert keys["tokenizer.ggml.pre"].value == "smollm"
    original = read_dense_tokenizer(header, max_tokens=8192)
    assert keys["tokenizer.ggml.tokens"].value == original.tokens
    assert keys["tokenizer.ggml.merges"].value == original.merges
    scalars = {key: value for key, value in header.values.items() if key.startswith("tokenizer.")}
    for key, value in scalars.items():
        if isinstance(value, (int, bool)):
            assert keys[key].value == value, key
    assert keys["tokenizer.chat_template"].value == original.chat_template


def test_the_demo_tokenizer_splits_digits_and_knows_its_special_tokens(demo_model: Path) -> None:
    tokenizer = read_dense_tokenizer(read_header(demo_model), max_tokens=8192)
    text = tokenizer_files(tokenizer)["tokenizer.json"]
    steps = json.loads(text)["pre_tokenizer"]["pretokenizers"]
    assert steps[0] == {"type": "Digits", "individual_digits": True}
    rebuilt = Tokenizer.from_str(text)
    assert rebuilt.get_vocab_size() == 49152
    assert rebuilt.encode("<|im_start|>12<|im_end|>").tokens == ["<|im_start|>", "1", "2", "<|im_end|>"]
    assert rebuilt.decode(rebuilt.encode(TEXT).ids) == TEXT


def test_the_tokenizer_files_name_the_special_tokens_and_the_template(dense: Path, tmp_path: Path) -> None:
    upcycle(dense, tmp_path / "moe", report=ignore)
    config = json.loads((tmp_path / "moe" / "tokenizer_config.json").read_text())
    assert (config["bos_token"], config["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert "message['content']" in config["chat_template"]
    assert config["add_bos_token"] is config["add_prefix_space"] is False
    assert config["added_tokens_decoder"]["2"]["content"] == "<|im_end|>"
    generation = json.loads((tmp_path / "moe" / "generation_config.json").read_text())
    assert generation == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    assert "license: apache-2.0" in (tmp_path / "moe" / "README.md").read_text()


def test_a_fitted_checkpoint_is_the_same_every_time(dense: Path, tmp_path: Path) -> None:
    digests = set()
    for name in ("first", "second"):
        folder = build_demo_checkpoint(dense, tmp_path / name, report=ignore)
        digests.add(hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_progress_reaches_its_total(dense: Path, tmp_path: Path) -> None:
    events: list[ConversionEvent] = []
    upcycle(dense, tmp_path / "moe", report=events.append)
    last = events[-1]
    assert isinstance(last, StageProgress)
    assert last.done == last.total
    assert (tmp_path / "moe" / "model.safetensors").stat().st_size >= last.total


def test_a_failed_upcycling_leaves_no_folder_that_looks_complete(dense: Path, tmp_path: Path) -> None:
    upcycle(dense, tmp_path / "moe", report=ignore)
    damaged = bytearray(dense.read_bytes())
    damaged[-4:] = np.float32(np.nan).tobytes()
    (tmp_path / "damaged.gguf").write_bytes(damaged)
    with pytest.raises(ConversionFailed, match="holds nan"):
        upcycle(tmp_path / "damaged.gguf", tmp_path / "moe", report=ignore)
    assert not (tmp_path / "moe" / "config.json").exists()
    assert not list((tmp_path / "moe").glob("*.part"))


def test_a_model_that_is_a_moe_already_is_refused(tiny_moe: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="a MoE already"):
        upcycle(tiny_moe, tmp_path / "moe", report=ignore)
    assert not (tmp_path / "moe").exists()


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    path = write_tiny_dense(tmp_path / "other.gguf", architecture="qwen2")
    with pytest.raises((UnsupportedModel, InvalidModel)):
        upcycle(path, tmp_path / "moe", report=ignore)


def test_tensors_that_would_be_dropped_are_refused(tmp_path: Path) -> None:
    path = write_tiny_dense(tmp_path / "biased.gguf", extra={"blk.0.attn_q.bias": (GEOMETRY.n_embd,)})
    with pytest.raises(UnsupportedModel, match=r"attn_q\.bias"):
        upcycle(path, tmp_path / "moe", report=ignore)


def test_another_pretokenizer_is_refused(tmp_path: Path) -> None:
    path = write_tiny_dense(tmp_path / "other.gguf", pre="gpt-2")
    with pytest.raises(UnsupportedModel, match="gpt-2"):
        upcycle(path, tmp_path / "moe", report=ignore)


def test_a_file_that_was_cut_is_refused(dense: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(dense.read_bytes())
    os.truncate(cut, cut.stat().st_size - 4096)
    with pytest.raises(InvalidModel):
        upcycle(cut, tmp_path / "moe", report=ignore)


def test_routers_of_the_wrong_shape_are_refused(dense: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionFailed, match=r"\(2, 3, 96\)"):
        upcycle(dense, tmp_path / "moe", router=np.zeros((2, 3, 96), np.float32), report=ignore)


def test_more_experts_in_use_than_there_are_is_refused(dense: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionFailed, match="5 of 4"):
        upcycle(dense, tmp_path / "moe", n_expert_used=5, report=ignore)
