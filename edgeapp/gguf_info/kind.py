"""Decide whether a GGUF is a model that the engine can run, or something else in the same container."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.cleantext import clean_line
from edgeapp.errors import InvalidModel, UnsupportedModel
from edgeapp.gguf_arch import ARCHITECTURES, LLAMA_CPP_COMMIT
from edgeapp.gguf_info.reader import DAMAGED

if TYPE_CHECKING:
    from edgeapp.gguf_info.header import Header

# general.type (gguf.constants.GGUFType) → what to call it and what to do
_OTHER_KINDS = {
    "mmproj": (
        "a multimodal projector (mmproj), which turns images into embeddings for a model",
        "Give the model that it belongs to.",
    ),
    "adapter": ("a LoRA adapter, which only changes a base model", "Give the base model."),
    "imatrix": ("an importance matrix, which is used while quantizing", "Give the model itself."),
    "vocab": ("a vocabulary without weights", "Give the model itself."),
}


def require_model(header: Header) -> str:
    """Return `general.architecture`.

    Raise `UnsupportedModel` for adapters, projectors, importance matrices and architectures that the pinned
    llama.cpp does not know.
    """
    kind = header.text("general.type")
    arch = header.text("general.architecture")
    if arch == "clip":
        kind = "mmproj"
    if kind in _OTHER_KINDS:
        what, hint = _OTHER_KINDS[kind]
        raise UnsupportedModel(f"{header.shown} is {what}; it is not a model.", hint=hint)
    if arch is None:
        raise InvalidModel(f"{header.shown} does not name its architecture.", hint=DAMAGED)
    if arch not in ARCHITECTURES:
        raise UnsupportedModel(
            f'{header.shown} has the architecture "{clean_line(arch, max_chars=60)}", '
            f"which llama.cpp {LLAMA_CPP_COMMIT} does not know.",
            hint="A newer edgeapp may run it; `edgeapp --version` says which one this is.",
        )
    return arch
