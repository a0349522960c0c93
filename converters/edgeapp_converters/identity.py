"""A digest over all that decides a file's bytes: only the same conversion may go on with a part."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

import edgeapp
from edgeapp_converters import ggml
from edgeapp_converters.pieces import PIECE_ELEMENTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp_converters.header import Header
    from edgeapp_converters.imatrix import Imatrix
    from edgeapp_converters.plan import TypedTensor


def identity(
    header: Header, tensors: Sequence[TypedTensor], imatrix: Imatrix | None, *, fingerprint: str
) -> str:
    """Return the hex sha256 of `fingerprint`, header, plan, types, importance and the versions at work."""
    digest = hashlib.sha256()
    for text in (fingerprint, edgeapp.__version__, ggml.version(), str(PIECE_ELEMENTS)):
        digest.update(f"{len(text)}:{text}".encode())
    digest.update(hashlib.sha256(header.data).digest())
    for tensor in tensors:
        _add(digest, tensor.type.name)
        _add(digest, tensor.plan.values)
        for part in tensor.plan.parts:
            for field in dataclasses.fields(part):
                _add(digest, getattr(part, field.name))
    for name, values in sorted(imatrix.entries.items()) if imatrix else ():
        _add(digest, name)
        _add(digest, values)
    return digest.hexdigest()


def _add(digest: Any, value: object) -> None:
    if isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).data)
    else:
        digest.update(f"{value!r};".encode())
