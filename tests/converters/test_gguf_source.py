"""An existing GGUF is a source like a checkpoint: every tensor and key is carried over as it is."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, LlamaFileType

from edgeapp.errors import EdgeappError, InvalidCheckpoint, UnsupportedCheckpoint, UnsupportedModel
from edgeapp_converters.gguf_source import open_gguf
from edgeapp_converters.llama_quantize import choose_types
from edgeapp_converters.metadata import MetaValue
from edgeapp_converters.writer import write_gguf
from tests.gguf_bytes import (
    ARRAY,
    BOOL,
    F32,
    I32,
    STRING,
    U8,
    U16,
    U64,
    GgufBytes,
    TensorSpec,
    Value,
    array,
    model_keys,
    number,
    text,
)
from tests.gguf_mutations import mutations

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp_converters.gguf_source import OpenedGguf

TYPES = {"F32": (0, 128), "F16": (1, 64), "BF16": (30, 64), "Q8_0": (8, 136)}
LOW = {"Q4_K": 12, "Q6_K": 14, "Q4_0": 2, "IQ4_XS": 23, "MXFP4": 39, "Q5_0": 6}
"""Types as `enum ggml_type` counts them."""


def write(
    path: Path, *tensors: TensorSpec, with_data: bytes | None = None, keys: dict[str, Value] | None = None
) -> Path:
    """Write a minimal model; `with_data` are the tensors' bytes."""
    content = GgufBytes(keys=list(model_keys(**(keys or {})).items()), tensors=tensors or (TensorSpec(),))
    data = content.encode()
    path.write_bytes(data if with_data is None else data[: -len(with_data)] + with_data)
    return path


def bytes_of(opened: OpenedGguf, name: str) -> bytes:
    tensor = opened.source.tensors[name]
    into = bytearray(tensor.n_bytes)
    opened.source.read(tensor, 0, memoryview(into))
    return bytes(into)


@pytest.mark.parametrize("kind", TYPES)
def test_tensors_of_eight_bits_and_more_are_read_as_they_are(tmp_path: Path, kind: str) -> None:
    type_id, n_bytes = TYPES[kind]
    data = bytes(range(1, n_bytes + 1)) if n_bytes < 200 else bytes(n_bytes)
    padded = data + bytes(-n_bytes % 32)
    shape = (32, 4) if kind == "Q8_0" else (8, 4)
    spec = TensorSpec(shape=shape, type_id=type_id, n_bytes=n_bytes)
    opened = open_gguf(write(tmp_path / "tiny.gguf", spec, with_data=padded))
    tensor = opened.source.tensors["token_embd.weight"]
    assert (tensor.dtype, tensor.shape) == (kind, shape[::-1])
    assert bytes_of(opened, "token_embd.weight") == data


def test_the_plan_copies_each_tensor_whole_and_fixes_what_is_never_quantised(tmp_path: Path) -> None:
    opened = open_gguf(
        write(
            tmp_path / "tiny.gguf",
            TensorSpec(name="token_embd.weight"),
            TensorSpec(name="blk.0.attn_norm.weight", shape=(8,), n_bytes=32),
            TensorSpec(name="blk.0.ffn_gate_inp.weight", shape=(8, 4), n_bytes=128),
        )
    )
    embedding, norm, router = opened.plan.tensors
    assert (embedding.shape, embedding.n_rows, embedding.fixed_type) == ((4, 8), 4, None)
    assert norm.fixed_type == router.fixed_type == GGMLQuantizationType.F32
    (part,) = embedding.parts
    assert (part.source, part.target_row, part.n_rows, part.first_row) == ("token_embd.weight", 0, 4, 0)


def test_a_stack_of_experts_gets_a_part_for_each_expert(tmp_path: Path) -> None:
    stack = TensorSpec(name="blk.0.ffn_up_exps.weight", shape=(8, 6, 4), n_bytes=768)
    keys = {"llama__expert_count": number(4), "llama__expert_used_count": number(2)}
    plan = open_gguf(write(tmp_path / "moe.gguf", stack, keys=keys)).plan
    (tensor,) = plan.tensors
    assert [(p.expert, p.first_row, p.target_row, p.n_rows) for p in tensor.parts] == [
        (e, 6 * e, 6 * e, 6) for e in range(4)
    ]
    assert (plan.n_layer, plan.n_expert, plan.n_expert_used) == (2, 4, 2)


def test_all_kinds_of_keys_are_carried_over_with_their_types(tmp_path: Path) -> None:
    numbers = {
        "u8": (U8, 250),
        "u16": (U16, 65_000),
        "i32": (I32, -7),
        "u64": (U64, 1 << 63),
        "f32": (F32, 0.5),
    }
    keys = {f"x__{name}": number(value, kind) for name, (kind, value) in numbers.items()}
    keys |= {"x__flag": number(1, BOOL), "x__text": text("Grüße\n\x1b[2J"), "x__empty": text("")}
    keys |= {"x__texts": array(STRING, ["a", "", "ü"]), "x__floats": array(F32, [0.5, -1.0])}
    keys |= {"x__flags": array(BOOL, [1, 0]), "x__none": array(U16, [])}
    metadata = open_gguf(write(tmp_path / "tiny.gguf", keys=keys)).plan.metadata
    kind = GGUFValueType
    for name, (type_id, value) in numbers.items():
        assert metadata[f"x.{name}"] == MetaValue(kind(type_id), value)
    assert metadata["x.flag"] == MetaValue(kind.BOOL, value=True)
    assert metadata["x.text"] == MetaValue(kind.STRING, "Grüße\n\x1b[2J")
    assert metadata["x.empty"] == MetaValue(kind.STRING, "")
    assert metadata["x.texts"] == MetaValue(kind.ARRAY, ("a", "", "ü"), kind.STRING)
    assert metadata["x.floats"] == MetaValue(kind.ARRAY, (0.5, -1.0), kind.FLOAT32)
    assert metadata["x.flags"] == MetaValue(kind.ARRAY, (True, False), kind.BOOL)
    assert metadata["x.none"] == MetaValue(kind.ARRAY, (), kind.UINT16)
    assert next(iter(metadata)) == "general.architecture"


def test_keys_about_the_old_file_are_dropped(tmp_path: Path) -> None:
    keys = {
        "general__file_type": number(1),
        "general__quantization_version": number(2),
        "general__alignment": number(32),
        "split__count": number(1, U16),
        "edgeapp__recipe": text("moe4"),
        "quantize__imatrix__file": text("x"),
        "general__name": text("Tiny"),
    }
    metadata = open_gguf(write(tmp_path / "tiny.gguf", keys=keys)).plan.metadata
    assert metadata.keys() == (model_keys().keys() | {"general.name"})


def test_the_alignment_of_the_source_is_not_that_of_the_result(tmp_path: Path) -> None:
    keys = list(model_keys(general__alignment=number(256)).items())
    tensors = (TensorSpec(), TensorSpec(name="blk.0.attn_q.weight"))
    content = GgufBytes(keys=keys, tensors=tensors, alignment_bytes=256).encode()
    (tmp_path / "wide.gguf").write_bytes(content[:-512] + bytes(range(128)) + bytes(128) + b"\1" * 256)
    opened = open_gguf(tmp_path / "wide.gguf")
    assert bytes_of(opened, "token_embd.weight") == bytes(range(128))
    assert bytes_of(opened, "blk.0.attn_q.weight") == b"\1" * 128
    assert "general.alignment" not in opened.plan.metadata


@pytest.mark.parametrize("kind", LOW)
def test_weights_of_fewer_bits_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    sizes = {"Q4_K": 144, "Q6_K": 210, "IQ4_XS": 136, "Q4_0": 144, "MXFP4": 136, "Q5_0": 176}
    low = TensorSpec(name="blk.0.attn_q.weight", shape=(256, 1), type_id=LOW[kind], n_bytes=sizes[kind])
    with pytest.raises(UnsupportedCheckpoint, match=f"is already {kind} .*would lose twice") as caught:
        open_gguf(write(tmp_path / "low.gguf", TensorSpec(), low))
    assert "Q8_0" in caught.value.hint


def test_integers_are_not_called_quantised(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedCheckpoint, match="as I32, which cannot be converted"):
        open_gguf(write(tmp_path / "int.gguf", TensorSpec(type_id=26)))


def test_the_demo_is_refused_as_it_is_q4_1(demo_model: Path) -> None:
    with pytest.raises(UnsupportedCheckpoint, match="is already Q4_1"):
        open_gguf(demo_model)


def test_no_weights_and_no_model_are_refused(tmp_path: Path) -> None:
    keys = list(model_keys().items())
    (tmp_path / "empty.gguf").write_bytes(GgufBytes(keys=keys, tensors=()).encode())
    with pytest.raises(InvalidCheckpoint, match="holds no weights"):
        open_gguf(tmp_path / "empty.gguf")
    with pytest.raises(UnsupportedModel, match="adapter"):
        open_gguf(write(tmp_path / "lora.gguf", keys={"general__type": text("adapter")}))


def test_a_tensor_without_dimensions_is_one_number(tmp_path: Path) -> None:
    scalar = TensorSpec(name="scale", shape=(), n_bytes=4)
    opened = open_gguf(write(tmp_path / "tiny.gguf", TensorSpec(), scalar))
    assert opened.plan.tensors[1].shape == opened.source.tensors["scale"].shape == (1,)


def test_text_that_is_not_utf8_is_refused_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(InvalidCheckpoint, match=r"general\.description is not UTF-8"):
        open_gguf(write(tmp_path / "tiny.gguf", keys={"general__description": text(b"\xff\xfe")}))


def test_a_link_that_the_user_names_is_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "elsewhere" / "blob.gguf")
    (tmp_path / "tiny.gguf").symlink_to("elsewhere/blob.gguf")
    opened = open_gguf(tmp_path / "tiny.gguf")
    assert opened.name == "tiny"
    assert bytes_of(opened, "token_embd.weight") == bytes(128)


@pytest.mark.parametrize("named", [1, 2])
def test_any_part_of_a_split_model_opens_all_of_it(tmp_path: Path, named: int) -> None:
    names = ("token_embd.weight", "output.weight")
    for number_, name in enumerate(names):
        split = {"split.no": number(number_, U16), "split.count": number(2, U16)}
        split["split.tensors.count"] = number(2, I32)
        keys = (model_keys() if number_ == 0 else {}) | split
        content = GgufBytes(keys=list(keys.items()), tensors=(TensorSpec(name=name),)).encode()
        path = tmp_path / f"Big-{number_ + 1:05}-of-00002.gguf"
        path.write_bytes(content[:-128] + bytes([number_ + 1]) * 128)
    opened = open_gguf(tmp_path / f"Big-{named:05}-of-00002.gguf")
    assert opened.name == "Big"
    assert opened.source.shards == ("Big-00001-of-00002.gguf", "Big-00002-of-00002.gguf")
    assert [tensor.name for tensor in opened.plan.tensors] == list(names)
    assert [bytes_of(opened, name)[0] for name in names] == [1, 2]
    assert not any(key.startswith("split.") for key in opened.plan.metadata)


def test_the_sha256_is_that_of_the_content_and_not_of_the_time(tmp_path: Path) -> None:
    first = open_gguf(write(tmp_path / "a.gguf")).source
    os.utime(tmp_path / "a.gguf", ns=(1, 1))
    same = open_gguf(tmp_path / "a.gguf").source
    assert same.fingerprint != first.fingerprint
    sha256 = same.sha256()
    again = open_gguf(write(tmp_path / "a.gguf")).source
    assert again.sha256() == sha256
    other = open_gguf(write(tmp_path / "a.gguf", with_data=b"\1" * 128)).source
    assert other.sha256() != sha256


def test_a_model_converted_to_f32_again_is_the_same_model(tiny_moe: Path, tmp_path: Path) -> None:
    opened = open_gguf(tiny_moe)
    tensors = choose_types(opened.plan, LlamaFileType.ALL_F32, has_imatrix=False)
    part = write_gguf(
        tmp_path / "copy.gguf",
        metadata=opened.plan.metadata,
        tensors=tensors,
        source=opened.source,
        imatrix=None,
        n_threads=2,
        fingerprint=opened.source.fingerprint,
        report=lambda _: None,
    )
    part.commit()
    part.close()
    opened.source.close()
    before, after = GGUFReader(tiny_moe), GGUFReader(tmp_path / "copy.gguf")
    for one, other in zip(before.tensors, after.tensors, strict=True):
        assert (one.name, list(one.shape)) == (other.name, list(other.shape))
        if one.tensor_type == GGMLQuantizationType.F32:
            np.testing.assert_array_equal(one.data, other.data)
    assert {key for key in before.fields if key.startswith("tokenizer.")} <= after.fields.keys()


def test_a_damaged_header_is_one_clear_error(tmp_path: Path) -> None:
    specs = (TensorSpec(), TensorSpec(name="blk.0.ffn_up_exps.weight", shape=(8, 6, 4), n_bytes=768))
    content = GgufBytes(tensors=specs).encode()
    path = tmp_path / "damaged.gguf"
    for damaged in mutations(content, 600, seed=4):
        path.write_bytes(damaged)
        try:
            open_gguf(path).source.close()
        except EdgeappError:
            continue


def test_an_array_of_arrays_is_refused(tmp_path: Path) -> None:
    nested = Value(type_id=ARRAY, payload=struct.pack("<IQIQB", ARRAY, 1, U8, 1, 7))
    with pytest.raises(EdgeappError, match="unknown type 9"):
        open_gguf(write(tmp_path / "nested.gguf", keys={"x__nested": nested}))
