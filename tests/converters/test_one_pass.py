"""Our one pass gives the bytes of the official two steps, for every family, with and without an imatrix.

The first official step, llama.cpp's converter, is recorded (`test_families.py` shows that our F32 tensors
are its); the second, llama_model_quantize, runs here, from the engine's own library in a process of its own.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
from gguf import GGUFReader

from edgeapp_converters import imatrix
from edgeapp_converters.arch import plan_model
from edgeapp_converters.checkpoint import open_folder
from edgeapp_converters.general_metadata import file_type_metadata, general_metadata
from edgeapp_converters.imatrix import Imatrix
from edgeapp_converters.recipe import choose_types, load_recipe
from edgeapp_converters.writer import write_gguf
from tests.converters.checkpoints import names, write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp_converters.checkpoint import Checkpoint
    from edgeapp_converters.plan import ModelPlan

SPECS = [name for name in names() if name != "gpt_oss"]
"""llama-quantize refuses to quantise GPT-OSS's MXFP4 blocks again, and we never do."""
VARIANTS = ("plain", "imatrix")

_QUANTISE = """
import ctypes, sys
import llama_cpp, numpy
from pathlib import Path
from edgeapp_converters import imatrix

def quantise(source, target, importance):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = 15, 2
    if importance != "-":
        entries = imatrix.read(Path(importance)).entries
        values = {name: numpy.ascontiguousarray(entry, numpy.float32) for name, entry in entries.items()}
        given = (llama_cpp.llama_model_imatrix_data * (len(values) + 1))()
        for slot, (name, value) in zip(given, values.items()):
            slot.name, slot.size = name.encode(), value.size
            slot.data = value.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        params.imatrix = ctypes.cast(given, ctypes.POINTER(llama_cpp.llama_model_imatrix_data))
    if llama_cpp.llama_model_quantize(source.encode(), target.encode(), params):
        sys.exit(f"llama_model_quantize refused {source}")

for line in sys.stdin:
    quantise(*line.split())
"""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The same model made by us in one pass and by llama_model_quantize from our F32 file."""

    ours: Path
    official: Path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Pair]:
    folder = tmp_path_factory.mktemp("one-pass")
    jobs: list[str] = []
    made: dict[tuple[str, str], Pair] = {}
    for name in SPECS:
        checkpoint = open_folder(write_checkpoint(folder / name, name))
        plan = plan_model(checkpoint.config, checkpoint.source.tensors)
        whole = _write(checkpoint, plan, folder / f"{name}-f32.gguf", "f32", None)
        importance = folder / f"{name}.imatrix"
        imatrix.write(importance, _random_importance(plan))
        for variant in VARIANTS:
            used = imatrix.read(importance) if variant == "imatrix" else None
            ours = _write(checkpoint, plan, folder / f"{name}-{variant}-ours.gguf", "q4_k_m", used)
            pair = Pair(ours=ours, official=folder / f"{name}-{variant}-official.gguf")
            jobs.append(f"{whole} {pair.official} {importance if used else '-'}")
            made[name, variant] = pair
        checkpoint.source.close()
    done = subprocess.run(
        [sys.executable, "-c", _QUANTISE],
        input="\n".join(jobs),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return made


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", SPECS)
def test_every_tensor_is_that_of_the_official_two_steps(
    pairs: dict[tuple[str, str], Pair], name: str, variant: str
) -> None:
    pair = pairs[name, variant]
    ours, official = _tensors(pair.ours), _tensors(pair.official)
    assert ours.keys() == official.keys()
    assert [tensor for tensor in ours if ours[tensor] != official[tensor]] == []


def test_the_importance_matrix_matters(pairs: dict[tuple[str, str], Pair]) -> None:
    plain, weighted = pairs["qwen3_moe", "plain"], pairs["qwen3_moe", "imatrix"]
    experts = "blk.0.ffn_gate_exps.weight"
    assert _tensors(plain.ours)[experts] != _tensors(weighted.ours)[experts]


def _write(
    checkpoint: Checkpoint, plan: ModelPlan, target: Path, recipe_name: str, importance: Imatrix | None
) -> Path:
    recipe = load_recipe(recipe_name)
    part = write_gguf(
        target,
        metadata=general_metadata(plan, name="tiny", folder=None)
        | file_type_metadata(recipe.file_type)
        | plan.metadata,
        tensors=choose_types(plan, recipe, has_imatrix=importance is not None),
        source=checkpoint.source,
        imatrix=importance,
        n_threads=2,
        fingerprint="",
        report=lambda _: None,
    )
    part.commit()
    part.close()
    return target


def _random_importance(plan: ModelPlan) -> Imatrix:
    """One row for each expert, or for each matrix of a stack."""
    random = np.random.default_rng(7)
    entries, counts = {}, {}
    for tensor in plan.tensors:
        if len(tensor.shape) > 1 and tensor.fixed_type is None:
            n_rows = tensor.shape[0] if len(tensor.shape) > 2 else 1
            entries[tensor.name] = random.uniform(0.1, 4.0, (n_rows, tensor.columns)).astype(np.float32)
            counts[tensor.name] = np.full(n_rows, 100.0, np.float32)
    return Imatrix(entries=entries, counts=counts, datasets=("random",))


def _tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...], str]]:
    return {
        tensor.name: (
            tensor.tensor_type.name,
            tuple(int(size) for size in tensor.shape),
            hashlib.sha256(np.ascontiguousarray(tensor.data).tobytes()).hexdigest(),
        )
        for tensor in GGUFReader(path).tensors
    }
