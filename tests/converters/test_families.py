"""Every family's plan gives what llama.cpp's own converter gives, byte for byte and key for key.

What that converter makes of our tiny checkpoints is recorded in `golden/` (see `record.py`).
"""

from __future__ import annotations

import gzip
import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from gguf import GGUFValueType

from edgeapp_converters.arch import plan_model
from edgeapp_converters.checkpoint import open_folder
from edgeapp_converters.plan import Encoding
from edgeapp_converters.rows import read_mxfp4_blocks, read_rows, row_numbers
from edgeapp_converters.scratch import Scratch
from tests.converters.checkpoints import names, write_checkpoint
from tests.converters.record import GOLDEN

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp_converters.metadata import MetaValue
    from edgeapp_converters.plan import ModelPlan, TensorPlan
    from edgeapp_converters.source import TensorSource

LEFT_OUT: dict[str, set[str]] = {}
"""Keys that the official converter writes and we do not, by spec; each with its reason beside it."""


@pytest.fixture(scope="module", params=names())
def spec_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def opened(
    spec_name: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ModelPlan, TensorSource, dict[str, Any]]:
    folder = write_checkpoint(tmp_path_factory.mktemp(spec_name), spec_name)
    checkpoint = open_folder(folder)
    plan = plan_model(checkpoint.config, checkpoint.source.tensors)
    recorded = json.loads(gzip.decompress((GOLDEN / f"{spec_name}.json.gz").read_bytes()))
    return plan, checkpoint.source, recorded


Opened = tuple["ModelPlan", "TensorSource", dict[str, Any]]


def test_tensors_have_the_official_names_and_shapes(opened: Opened) -> None:
    plan, _, recorded = opened
    ours = {tensor.name: list(tensor.shape) for tensor in plan.tensors}
    theirs = {name: _written_shape(tensor["shape"]) for name, tensor in recorded["tensors"].items()}
    assert ours == theirs


def test_tensors_have_the_official_bytes(opened: Opened) -> None:
    plan, source, recorded = opened
    different = [
        tensor.name
        for tensor in plan.tensors
        if "values" not in recorded["tensors"][tensor.name]
        and hashlib.sha256(_bytes(source, tensor)).hexdigest() != recorded["tensors"][tensor.name]["sha256"]
    ]
    assert different == []


def test_exponentials_differ_by_a_last_bit_at_most(opened: Opened) -> None:
    plan, source, recorded = opened
    for tensor in plan.tensors:
        official = recorded["tensors"][tensor.name].get("values")
        if official is not None:
            ours = np.frombuffer(_bytes(source, tensor), np.float32)
            np.testing.assert_array_max_ulp(ours, np.array(official, np.float32), maxulp=1)


def test_moved_blocks_have_the_official_type(opened: Opened) -> None:
    plan, _, recorded = opened
    moved = {
        tensor.name: tensor.fixed_type.name
        for tensor in plan.tensors
        if tensor.fixed_type is not None and _is_moved(tensor)
    }
    theirs = {name: t["type"] for name, t in recorded["tensors"].items() if t["type"] != "F32"}
    assert moved == theirs


def test_architecture_keys_are_the_official_ones(opened: Opened, spec_name: str) -> None:
    plan, _, recorded = opened
    assert plan.architecture == recorded["architecture"]
    ours = {key: _as_recorded(value) for key, value in plan.metadata.items()}
    left_out = LEFT_OUT.get(spec_name, set())
    assert ours == {key: value for key, value in recorded["keys"].items() if key not in left_out}


def test_shards_make_no_difference(tmp_path: Path) -> None:
    whole = open_folder(write_checkpoint(tmp_path / "whole", "qwen3_moe"))
    shards = open_folder(write_checkpoint(tmp_path / "shards", "qwen3_moe", n_shards=3))
    for one, other in zip(
        plan_model(whole.config, whole.source.tensors).tensors,
        plan_model(shards.config, shards.source.tensors).tensors,
        strict=True,
    ):
        assert one.name == other.name
        assert _bytes(whole.source, one) == _bytes(shards.source, other)


def _bytes(source: TensorSource, tensor: TensorPlan) -> bytes:
    """The whole tensor as F32, or as blocks where those are moved."""
    if tensor.values is not None:
        return np.ascontiguousarray(tensor.values).tobytes()
    if _is_moved(tensor):
        blocks = np.zeros((tensor.n_rows, tensor.columns // 32 * 17), np.uint8)
        for part in tensor.parts:
            into = blocks[part.target_row : part.target_row + part.n_rows]
            read_mxfp4_blocks(source, part, row_numbers(part, 0, part.n_rows), into, Scratch())
        return blocks.tobytes()
    whole = np.full((tensor.n_rows, tensor.columns), np.nan, np.float32)
    for part in tensor.parts:
        rows = whole[part.target_row : part.target_row + part.n_rows]
        read_rows(source, part, 0, part.n_rows, tensor.columns, rows)
    return whole.tobytes()


def _is_moved(tensor: TensorPlan) -> bool:
    return any(part.encoding is Encoding.MXFP4 for part in tensor.parts)


def _written_shape(shape: list[int]) -> list[int]:
    """llama-quantize, the second official step, writes no outer dimensions of one."""
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return shape


def _as_recorded(value: MetaValue) -> dict[str, Any]:
    types = [value.kind] if value.item is None else [value.kind, value.item]
    plain = list(value.value) if isinstance(value.value, tuple) else value.value
    if value.kind is GGUFValueType.FLOAT32:
        plain = float(np.float32(plain))  # type: ignore[arg-type] # its kind says that it is a number
    if value.item is GGUFValueType.FLOAT32:
        plain = [float(np.float32(number)) for number in plain]  # type: ignore[union-attr]
    return {"types": [kind.name for kind in types], "value": plain}
