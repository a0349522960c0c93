"""Every family's GGUF computes what transformers computes from the same checkpoint.

The logits of transformers (F32, eager attention) are recorded in `golden/` by `record.py`; ours come from the
real engine with an F32 KV cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgeapp.protocol import Load
from edgeapp.runtime.measuring import evaluate
from edgeapp.runtime.worker_client import WorkerClient
from edgeapp_converters.arch import plan_model
from edgeapp_converters.checkpoint import open_folder
from edgeapp_converters.general_metadata import file_type_metadata, general_metadata
from edgeapp_converters.recipe import choose_types, load_recipe
from edgeapp_converters.tokenizer import read_tokenizer
from edgeapp_converters.writer import write_gguf
from tests.converters.checkpoints import names, write_checkpoint
from tests.converters.record import GOLDEN, TOKENS

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

TOLERANCE = 1e-4
"""Largest difference, for logits of a standard deviation of about one."""
LOOSER = {
    "gemma3": 2e-3,  # ggml reads GELU from a table of F16 numbers (ggml-cpu/vec.h, GGML_GELU_FP16)
    "gemma4_moe": 2e-3,  # the same
    "qwen3_next": 5e-4,  # the delta rule is computed in chunks of another size
}
QUANTISED = {"gpt_oss"}
"""Checkpoints whose experts stay MXFP4: the engine rounds activations for them, transformers does not."""


NOT_COMPARABLE = {"deepseek_v3_fp8"}
"""transformers 5.24 spreads the scales of a weight that ends inside a block over all its rows; llama.cpp's
converter does as we do (`test_families.py`), and the BF16 twin `deepseek_v3` is compared here."""


@pytest.mark.parametrize("name", [name for name in names() if name not in NOT_COMPARABLE])
async def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    golden = GOLDEN / f"{name}.npy"
    assert golden.exists(), "record it: see record.py"
    theirs: npt.NDArray[np.float32] = np.load(golden)
    ours = await _logits(_converted(tmp_path, name))
    scale = max(float(theirs.std()), 1.0)
    if name in QUANTISED:
        assert np.abs(ours - theirs).mean() <= 0.02 * scale
        return
    assert (ours.argmax(axis=1) == theirs.argmax(axis=1)).all()
    assert np.abs(ours - theirs).max() <= LOOSER.get(name, TOLERANCE) * scale


def _converted(folder: Path, name: str) -> Path:
    checkpoint = open_folder(write_checkpoint(folder / name, name))
    plan = plan_model(checkpoint.config, checkpoint.source.tensors)
    recipe = load_recipe("f32")
    part = write_gguf(
        folder / "model.gguf",
        metadata=general_metadata(plan, name=name, folder=None)
        | file_type_metadata(recipe.file_type)
        | plan.metadata
        | read_tokenizer(
            checkpoint.folder,
            config=checkpoint.config,
            architecture="any",  # the cut byte-level tokenizer, without a family's special tokens
            pre="smollm",
            report=lambda _: None,
        ),
        tensors=choose_types(plan, recipe, has_imatrix=False),
        source=checkpoint.source,
        imatrix=None,
        n_threads=1,
        fingerprint="",
        report=lambda _: None,
    )
    part.commit()
    part.close()
    checkpoint.source.close()
    return folder / "model.gguf"


async def _logits(model: Path) -> npt.NDArray[np.float32]:
    load = Load(id=0, path=str(model), n_ctx=256, n_threads=1, n_outputs=len(TOKENS), kv_type="f32")
    client = WorkerClient(load)
    try:
        async with evaluate(client, TOKENS) as logits:
            return np.array(logits)
    finally:
        await client.aclose()
