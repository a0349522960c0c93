"""The head of the file, byte for byte as gguf-py writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter, quant_shape_to_byte_shape

from edgeapp.errors import InvalidCheckpoint
from edgeapp_converters.header import build_header
from edgeapp_converters.metadata import (
    MetaValue,
    array,
    boolean,
    booleans,
    f32,
    f32s,
    i32,
    i32s,
    string,
    strings,
    u32,
    u64,
)
from tests.converters.raw_source import typed

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp_converters.metadata import Metadata
    from edgeapp_converters.plan import TypedTensor

Q = GGMLQuantizationType
_METADATA: Metadata = {
    "general.architecture": string("llama"),
    "llama.block_count": u32(3),
    "a.signed": i32(-3),
    "a.large": u64(2**63),
    "a.number": f32(0.1),
    "a.flag": boolean(True),
    "a.tokens": strings(["x", "", "ä€"]),
    "a.types": i32s([1, -2]),
    "a.scores": f32s([0.5, -1000.0]),
    "a.mask": booleans([True, False]),
    "a.bytes": array(GGUFValueType.UINT8, [0, 255]),
}
_TENSORS = (
    typed("token_embd.weight", (5, 256), Q.Q4_K),
    typed("blk.0.ffn_up_exps.weight", (4, 3, 32), Q.Q8_0),
    typed("output_norm.weight", (7,), Q.F32),
    typed("output.weight", (5, 256), Q.F16),
)


def _as_gguf_py_writes(path: Path, metadata: Metadata, tensors: tuple[TypedTensor, ...]) -> bytes:
    writer = GGUFWriter(None, "llama")
    for key, value in metadata.items():
        writer.add_key_value(key, value.value, value.kind, value.item)
    for tensor in tensors:
        shape = quant_shape_to_byte_shape(tensor.plan.shape, tensor.type)
        n_bytes = shape[-1]
        for dimension in shape[:-1]:
            n_bytes *= dimension
        writer.add_tensor_info(tensor.plan.name, shape, np.dtype(np.uint8), n_bytes, raw_dtype=tensor.type)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    file = writer.fout[0]
    writer.write_padding(file, file.tell())
    writer.close()
    return path.read_bytes()


def test_every_byte_is_that_of_gguf_py(tmp_path: Path) -> None:
    expected = _as_gguf_py_writes(tmp_path / "expected.gguf", _METADATA, _TENSORS)
    assert build_header(_METADATA, _TENSORS).data == expected


def test_tensors_follow_each_other_aligned() -> None:
    header = build_header(_METADATA, _TENSORS)
    starts = [offset - len(header.data) for offset in header.offsets_bytes]
    assert starts == [0, 736, 1152, 1184]  # 5 × 144, 12 × 34, 28 and 5 × 512 bytes, each padded to 32
    assert header.file_bytes == len(header.data) + 1184 + 2560
    assert header.place_of_rows(1, 3, 2) == (len(header.data) + 736 + 3 * 34, 68)


@pytest.mark.parametrize(
    "value",
    [u32(-1), u32(2**32), i32(2**31), f32(1e39), MetaValue(GGUFValueType.UINT8, 256), string("\ud800")],
)
def test_a_value_that_its_type_cannot_hold_is_refused(value: MetaValue) -> None:
    with pytest.raises(InvalidCheckpoint, match=r"llama\.x"):
        build_header({"llama.x": value}, ())
