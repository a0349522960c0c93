"""Say what a file that is no GGUF looks like, from its first bytes. Decides nothing, opens nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.errors import InvalidModel

if TYPE_CHECKING:
    from collections.abc import Callable

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_OLD_GGML = (b"lmgg", b"fmgg", b"tjgg", b"algg")  # GGML, GGMF, GGJT and GGLA magics, written as u32
_ZIP_OR_PICKLE = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_MAX_SAFETENSORS_HEADER_BYTES = 100_000_000  # safetensors' own limit


def describe_foreign(first: bytes, *, shown: str) -> InvalidModel:
    """Return the error for a file that begins with `first`, which lacks the GGUF magic."""
    looks_like, hint = _guess(first)
    return InvalidModel(f"{shown} is not a GGUF model; {looks_like}.", hint=hint)


def _guess(first: bytes) -> tuple[str, str]:
    for looks_so, looks_like, hint in _KNOWN:
        if looks_so(first):
            return looks_like, hint
    return (
        f"it begins with {first[:4].hex(' ')} instead of 47 47 55 46",
        "Give the path of a .gguf file; `edgeapp models` lists what is here.",
    )


def _is_safetensors(first: bytes) -> bool:
    """A length of 8 bytes, then a JSON object (https://github.com/huggingface/safetensors, Format)."""
    return first[8:10] == b'{"' and int.from_bytes(first[:8], "little") <= _MAX_SAFETENSORS_HEADER_BYTES


def _is_web_page(first: bytes) -> bool:
    return first[:512].lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml"))


_KNOWN: tuple[tuple[Callable[[bytes], bool], str, str], ...] = (
    (
        lambda first: first.startswith(_LFS_POINTER),
        "it is a Git LFS pointer, not the file itself",
        "Run `git lfs pull` where it was cloned.",
    ),
    (
        _is_web_page,
        "it is a web page",
        "A download link returned a page; use the link of the file itself, or `edgeapp models pull`.",
    ),
    (
        _is_safetensors,
        "it is a safetensors checkpoint",
        "Get a GGUF of this model, or convert the checkpoint.",
    ),
    (
        lambda first: first.startswith(_ZIP_OR_PICKLE),
        "it is a zip archive or Python pickle, as PyTorch checkpoints are",
        "Such files can run code when they are opened; get a GGUF of this model instead.",
    ),
    (
        lambda first: first.startswith(_OLD_GGML),
        "it is in the format that came before GGUF",
        "Get a newer conversion of the same model.",
    ),
    (
        lambda first: not first.strip(b"\0"),
        "it begins with zeros",
        "The download did not finish; fetch the file again.",
    ),
)
"""Test on the first bytes, what the file is, and what to do; the first match counts."""
