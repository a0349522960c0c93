"""Make a Mixture of Experts out of a dense model: every expert is a copy of the dense FFN.

The result is a checkpoint folder in Mixtral's layout. The router's weights of the chosen experts add up to
one and the experts are the same, so it computes what the dense model does, whatever the router says: a MoE
in its structure and its work, not in its knowledge. Source of the idea: Komatsuzaki et al., Sparse Upcycling,
2022 (arXiv 2212.05055), where training follows; here none does.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from edgeapp import durable, paths
from edgeapp.cleantext import clean_line
from edgeapp.errors import ConversionFailed
from edgeapp_converters import texts
from edgeapp_converters.dense_model import open_dense
from edgeapp_converters.dense_tokenizer import read_dense_tokenizer, special_token_ids, tokenizer_files
from edgeapp_converters.events import StageProgress
from edgeapp_converters.mixtral_checkpoint import mixtral_config, mixtral_tensors
from edgeapp_converters.padding import Padding
from edgeapp_converters.router import fit_router
from edgeapp_converters.safetensors_writer import write_safetensors

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from edgeapp_converters.dense_model import DenseModel
    from edgeapp_converters.events import Report
    from edgeapp_converters.safetensors_writer import Dtype

N_EXPERT = 4
N_EXPERT_USED = 2
PAD_TO = 256
"""Block length of llama.cpp's K-quants."""
_SEED = 0
_UNFITTED_SPREAD = 0.02
_DEMO_CHARS = 1500
"""Of each calibration text: together some 2,500 tokens, enough to tell four kinds apart."""
_DEMO_MAX_TOKENS = 4096


def upcycle(
    dense: Path,
    folder: Path,
    *,
    n_expert: int = N_EXPERT,
    n_expert_used: int = N_EXPERT_USED,
    pad_to: int = PAD_TO,
    dtype: Dtype = "F16",
    router: npt.NDArray[np.float32] | None = None,
    report: Report,
) -> None:
    """Write the dense GGUF `dense` to `folder` as a checkpoint with `n_expert` identical experts per layer.

    Hidden size, heads and FFN are filled with zeros to multiples of `pad_to` (1: not at all). `router` is
    [n_layer, n_expert, n_embd]; without it, tokens are sent to experts at random. config.json is written
    last, so a folder that has one is complete. Raise `ModelError` for a model that cannot be upcycled,
    `NotEnoughDisk`, `ConversionFailed`.
    """
    with open_dense(dense) as model:
        routers = _unfitted_router(model, n_expert) if router is None else router
        _check_router(model, routers, n_expert, n_expert_used)
        padding = Padding(dense=model.geometry, padded=model.geometry.padded(pad_to))
        tokenizer = read_dense_tokenizer(model.header, max_tokens=model.info.n_ctx_train)
        _begin(folder)
        write_safetensors(
            folder / "model.safetensors",
            mixtral_tensors(model, padding, routers, dtype=dtype),
            progress=lambda done, total: report(
                StageProgress(stage="upcycling", done=done, total=total, unit="bytes", label="weights")
            ),
        )
        config = mixtral_config(
            model, padding, n_expert=n_expert, n_expert_used=n_expert_used, dtype=dtype
        ) | special_token_ids(tokenizer)
        files = tokenizer_files(tokenizer) | {"README.md": _card(model)}
    for name, text in files.items():
        durable.write(folder / name, text.encode())
    durable.write(folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())


def build_demo_checkpoint(dense: Path, folder: Path, *, report: Report) -> Path:
    """Upcycle `dense` to `folder` with routers fitted to the bundled calibration texts; return `folder`.

    The same dense model on the same machine gives the same weights. Raise `EdgeappError`.
    """
    with open_dense(dense) as model:
        n_layer, n_embd = model.info.n_layer, model.geometry.n_embd
    router = fit_router(
        dense,
        _demo_text(),
        n_layer=n_layer,
        n_embd=n_embd,
        n_expert=N_EXPERT,
        n_expert_used=N_EXPERT_USED,
        max_tokens=_DEMO_MAX_TOKENS,
        report=report,
    )
    upcycle(dense, folder, router=router, report=report)
    return folder


def _demo_text() -> str:
    """Return the beginning of each calibration text."""
    families = [name for name in texts.bundled_texts() if name != texts.EVALUATION]
    return "\n\n".join(texts.find(name).text[:_DEMO_CHARS] for name in families)


def _begin(folder: Path) -> None:
    """Create `folder`, or take from it what would say that it is complete."""
    paths.make_private(folder)
    (folder / "config.json").unlink(missing_ok=True)


def _unfitted_router(model: DenseModel, n_expert: int) -> npt.NDArray[np.float32]:
    random = np.random.default_rng(_SEED)
    shape = (model.info.n_layer, n_expert, model.geometry.n_embd)
    return random.standard_normal(shape, dtype=np.float32) * np.float32(_UNFITTED_SPREAD)


def _check_router(
    model: DenseModel, router: npt.NDArray[np.float32], n_expert: int, n_expert_used: int
) -> None:
    expected = (model.info.n_layer, n_expert, model.geometry.n_embd)
    if router.shape != expected:
        raise ConversionFailed(f"The routers have the shape {router.shape} instead of {expected}.")
    if not 1 <= n_expert_used <= n_expert:
        raise ConversionFailed(f"{n_expert_used} of {n_expert} experts cannot be used for a token.")


def _card(model: DenseModel) -> str:
    """Return a model card, which is where the licence of a checkpoint stands."""
    licence = f"license: {clean_line(model.info.license, max_chars=80)}\n" if model.info.license else ""
    name = clean_line(model.info.name or model.header.path.stem, max_chars=200)
    return (
        f"---\n{licence}---\n\n"
        f"Upcycled by edgeapp from {name}: every expert is a copy of the dense model's FFN.\n"
        "This is not a trained Mixture of Experts; it knows no more than the dense model.\n"
    )
