"""A GGUF of many bits converted again gives the bytes and the keys of llama.cpp's own quantiser.

The oracle is llama_model_quantize of the engine's own library, in a process of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
from gguf import GGUFReader

from edgeapp_converters.arch import plan_model
from edgeapp_converters.checkpoint import open_folder
from edgeapp_converters.general_metadata import file_type_metadata, general_metadata
from edgeapp_converters.gguf_source import open_gguf
from edgeapp_converters.recipe import choose_types, load_recipe
from edgeapp_converters.writer import write_gguf
from tests.converters.checkpoints import write_checkpoint
from tests.converters.official_quantiser import Job, official_types
from tests.tiny_moe import write_tiny_moe

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp_converters.metadata import Metadata
    from edgeapp_converters.plan import ModelPlan
    from edgeapp_converters.source import TensorSource

FAMILIES = ("mixtral", "deepseek_v2")
STORED = ("f16", "bf16", "q8_0")
CASES = (*(f"{family}-{stored}" for family in FAMILIES for stored in STORED), "whole", "split")
TARGETS = ("q4_k_m", "q8_0")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The same GGUF quantised by us and by llama.cpp."""

    ours: GGUFReader
    official: GGUFReader


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Pair]:
    folder = tmp_path_factory.mktemp("requantise")
    sources = _sources(folder)
    jobs = {
        (case, target): Job(
            model=str(path),
            output=str(folder / f"{case}-{target}-official.gguf"),
            file_type=load_recipe(target).file_type,
            allow_requantize=True,
        )
        for case, path in sources.items()
        for target in TARGETS
    }
    official_types(tuple(jobs.values()))
    return {
        (case, target): Pair(
            ours=GGUFReader(_requantised(sources[case], folder / f"{case}-{target}-ours.gguf", target)),
            official=GGUFReader(job.output),
        )
        for (case, target), job in jobs.items()
    }


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", CASES)
def test_every_tensor_is_that_of_the_official_quantiser(
    pairs: dict[tuple[str, str], Pair], case: str, target: str
) -> None:
    pair = pairs[case, target]
    ours, official = _tensors(pair.ours), _tensors(pair.official)
    assert ours.keys() == official.keys()
    assert [name for name in ours if ours[name] != official[name]] == []


@pytest.mark.parametrize("case", CASES)
def test_every_key_has_the_value_and_the_type_that_the_official_quantiser_leaves(
    pairs: dict[tuple[str, str], Pair], case: str
) -> None:
    pair = pairs[case, "q4_k_m"]
    assert _keys(pair.ours) == _keys(pair.official)


def test_a_split_model_becomes_the_same_file_as_a_whole_one(pairs: dict[tuple[str, str], Pair]) -> None:
    whole, split = pairs["whole", "q4_k_m"].ours, pairs["split", "q4_k_m"].ours
    assert bytes(whole.data) == bytes(split.data)


def test_what_was_stored_matters(pairs: dict[tuple[str, str], Pair]) -> None:
    experts = "blk.0.ffn_up_exps.weight"
    found = {_tensors(pairs[f"mixtral-{stored}", "q4_k_m"].ours)[experts] for stored in ("f16", "q8_0")}
    assert len(found) == 2


def _sources(folder: Path) -> dict[str, Path]:
    sources = {
        f"{family}-{stored}": _from_checkpoint(folder, family, stored)
        for family in FAMILIES
        for stored in STORED
    }
    return sources | {
        "whole": write_tiny_moe(folder / "whole.gguf"),
        "split": write_tiny_moe(folder / "split.gguf", split_max_tensors=5),
    }


def _from_checkpoint(folder: Path, family: str, stored: str) -> Path:
    checkpoint = open_folder(write_checkpoint(folder / f"{family}-{stored}", family))
    plan = plan_model(checkpoint.config, checkpoint.source.tensors)
    metadata = general_metadata(plan, name="tiny", folder=None) | plan.metadata
    return _write(folder / f"{family}-{stored}.gguf", plan, metadata, checkpoint.source, stored)


def _requantised(model: Path, target: Path, recipe_name: str) -> Path:
    opened = open_gguf(model)
    return _write(target, opened.plan, opened.plan.metadata, opened.source, recipe_name)


def _write(target: Path, plan: ModelPlan, metadata: Metadata, source: TensorSource, recipe_name: str) -> Path:
    recipe = load_recipe(recipe_name)
    part = write_gguf(
        target,
        metadata=metadata | file_type_metadata(recipe.file_type),
        tensors=choose_types(plan, recipe, has_imatrix=False),
        source=source,
        imatrix=None,
        n_threads=2,
        fingerprint="",
        report=lambda _: None,
    )
    part.commit()
    part.close()
    source.close()
    return target


def _tensors(reader: GGUFReader) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {
        tensor.name: (
            tensor.tensor_type.name,
            tuple(map(int, tensor.shape)),
            np.ascontiguousarray(tensor.data).tobytes(),
        )
        for tensor in reader.tensors
    }


def _keys(reader: GGUFReader) -> dict[str, tuple[tuple[str, ...], object]]:
    """Types and values; `GGUF.` are the reader's own names for what stands before the keys."""
    return {
        name: (tuple(kind.name for kind in field.types), field.contents())
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.")
    }
