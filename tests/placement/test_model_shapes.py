"""The header-only models are what they claim to be: right sizes, and llama.cpp takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgeapp.gguf_info import read_gguf_info
from tests.model_shapes import SHAPES, Shape, n_parameters, tensor_specs
from tests.native.memory_breakdown import Placement, Use, breakdowns

if TYPE_CHECKING:
    from pathlib import Path

    from tests.gguf_bytes import TensorSpec


@pytest.fixture(scope="module")
def on_the_host(shape_files: dict[str, Path], breakdown_shim: Path) -> dict[str, Use | None]:
    """What llama.cpp wants for each shape without a GPU."""
    placements = [Placement(path=str(path), n_ctx=4096) for path in shape_files.values()]
    uses = breakdowns(breakdown_shim, placements)
    return {name: use["CPU"] if use else None for name, use in zip(shape_files, uses, strict=True)}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_has_the_published_number_of_parameters(name: str) -> None:
    assert n_parameters(SHAPES[name]) == pytest.approx(SHAPES[name].n_parameters, rel=0.006)


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_takes_no_room_on_the_disk(name: str, shape_files: dict[str, Path]) -> None:
    stat = shape_files[name].stat()
    assert stat.st_size > 3 * 1024**3
    assert stat.st_blocks * 512 < 300_000


@pytest.mark.parametrize("name", SHAPES)
def test_llama_cpp_loads_every_tensor_of_a_shape(name: str, on_the_host: dict[str, Use | None]) -> None:
    loaded = sum(spec.n_bytes for spec in _loaded(SHAPES[name]))
    use = on_the_host[name]
    assert use is not None
    assert use.weights == pytest.approx(loaded, rel=1e-4)  # buffers are padded
    assert use.kv > 0


def _loaded(shape: Shape) -> list[TensorSpec]:
    """Leave out multi-token prediction; a tied output is a second copy of the embeddings, repacked."""
    specs = tensor_specs(shape)
    unused = tuple(f"blk.{layer}." for layer in range(shape.n_layer - shape.n_nextn, shape.n_layer))
    used = [spec for spec in specs if not spec.name.startswith(unused)]
    return used + [spec for spec in specs if shape.tied and spec.name == "token_embd.weight"]


@pytest.mark.parametrize("name", SHAPES)
def test_our_own_reader_knows_a_shape_as_a_mixture_of_experts(
    name: str, shape_files: dict[str, Path]
) -> None:
    info = read_gguf_info(shape_files[name])
    assert (info.n_layer, info.n_expert) == (SHAPES[name].n_layer, SHAPES[name].n_expert)
    assert info.expert_bytes > 0.7 * info.tensor_bytes
