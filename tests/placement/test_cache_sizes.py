"""The KV cache takes exactly what llama.cpp allocates, for every shape, type and number of answers."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest

from edgeapp.gguf_info import read_gguf_info
from edgeapp.placement.cache_bytes import KV_TYPES, can_store, layer_cache_bytes
from edgeapp.placement.shape import ModelShape, model_shape
from tests.model_shapes import SHAPES
from tests.native.memory_breakdown import Placement, breakdowns

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp.placement.wishes import KvType

_N_CTX, _SPARE_SEQUENCES = 4000, 4
Found = dict[tuple[str, "KvType", int], int]


@pytest.fixture(scope="module")
def shapes(shape_files: dict[str, Path]) -> dict[str, ModelShape]:
    return {name: model_shape(read_gguf_info(path)) for name, path in shape_files.items()}


@pytest.fixture(scope="module")
def found(shape_files: dict[str, Path], shapes: dict[str, ModelShape], breakdown_shim: Path) -> Found:
    kinds: list[tuple[KvType, int]] = [("f16", 3), ("q8_0", 1), ("q4_0", 1)]
    wanted = [
        (name, kv_type, n_parallel)
        for name, (kv_type, n_parallel) in product(SHAPES, kinds)
        if can_store(shapes[name], kv_type)
    ]
    uses = breakdowns(
        breakdown_shim,
        [
            Placement(
                path=str(shape_files[name]),
                n_ctx=_N_CTX,
                kv_type=kv_type,
                n_sequences=n_parallel + (0 if shapes[name].is_recurrent else _SPARE_SEQUENCES),
                n_outputs=8,
            )
            for name, kv_type, n_parallel in wanted
        ],
    )
    return {one: use["CPU"].kv if use else 0 for one, use in zip(wanted, uses, strict=True)}


@pytest.mark.parametrize("name", SHAPES)
def test_the_cache_takes_what_llama_cpp_allocates(
    name: str, shapes: dict[str, ModelShape], found: Found
) -> None:
    kinds = [key for key in found if key[0] == name]
    assert len(kinds) > 1
    for key in kinds:
        _, kv_type, n_parallel = key
        ours = layer_cache_bytes(
            shapes[name], n_ctx=_N_CTX, n_ubatch=512, kv_type=kv_type, n_parallel=n_parallel
        )
        assert sum(ours) == found[key], key


def test_types_are_known_from_largest_to_smallest(shapes: dict[str, ModelShape]) -> None:
    shape = shapes["qwen3-30b-a3b"]
    sizes = [
        sum(layer_cache_bytes(shape, n_ctx=_N_CTX, n_ubatch=512, kv_type=kv_type, n_parallel=1))
        for kv_type in KV_TYPES
    ]
    assert sizes == sorted(sizes, reverse=True)
