"""What can be said about a model from its header alone.

`read_gguf_info` is the front door: it checks the header of every part and derives the numbers. It loads no
weights and no engine, and takes milliseconds.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeapp.cleantext import clean_line
from edgeapp.errors import InvalidModel
from edgeapp.gguf_arch import RECURRENT_ARCHITECTURES
from edgeapp.gguf_info.cache_layers import CacheLayout, cache_layout
from edgeapp.gguf_info.ggml_types import FILE_TYPES
from edgeapp.gguf_info.header import Header, Span, Tensor
from edgeapp.gguf_info.hyperparameters import Fields, Hyperparameters, read_hyperparameters
from edgeapp.gguf_info.kind import require_model
from edgeapp.gguf_info.layer_bytes import TensorBytes
from edgeapp.gguf_info.layer_bytes import tensor_bytes as sum_tensors
from edgeapp.gguf_info.parts import read_parts
from edgeapp.gguf_info.vocabulary import Vocabulary, read_vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_F16_BYTES = 2
_LAYER = re.compile(r"blk\.(\d{1,6})\.")
_SAMPLING = "general.sampling."
_CONVERSION = "edgeapp."
_CHAT_TEMPLATE = "tokenizer.chat_template"
_SOURCE_KEYS = (
    "general.source.repo_url",
    "general.source.huggingface.repository",
    "general.repo_url",
    "general.source.url",
    "general.url",
    "general.base_model.0.repo_url",
    "general.base_model.0.name",
)


@dataclass(frozen=True, kw_only=True)
class TensorTypeShare:
    """How much of a model is stored in one ggml type."""

    name: str
    count: int
    parameters: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class GgufInfo:
    """A checked model. Texts are clean single lines; an empty text means that the file does not say."""

    path: Path
    """The file to load: the first part of a split."""
    parts: tuple[Path, ...]
    arch: str
    name: str
    author: str
    license: str
    source: str
    """Repository, URL or base model, whichever is given first."""
    parameters: int
    active_parameters: int
    """Parameters that work on one token: all dense tensors, shared experts and the router in full, routed
    experts at n_expert_used / n_expert. The token embedding counts once, also when it serves as output."""
    n_expert: int
    n_expert_used: int
    """The most that any layer uses; 0 in a dense model."""
    n_layer: int
    n_layer_nextn: int
    """Of these, layers that only multi-token prediction uses; they are not loaded."""
    n_embd: int
    n_head: int
    n_head_kv: int
    """The most heads in any layer."""
    head_dim_k: int
    head_dim_v: int
    n_ctx_train: int
    n_vocab: int
    tokenizer: str
    tokenizer_pre: str
    has_chat_template: bool
    chat_template_sha256: str
    sampling: tuple[tuple[str, int | float | str], ...]
    """Defaults that the file recommends (`general.sampling.*`), names as in llama.cpp."""
    conversion: tuple[tuple[str, int | float | str], ...]
    """What edgeapp wrote about the conversion and its measured loss (`edgeapp.*`); empty for other files."""
    quantization: str
    """What the file calls itself, like "Q4_1 mostly"; `tensor_types` says what is true."""
    tensor_types: tuple[TensorTypeShare, ...]
    """The largest share first."""
    file_bytes: int
    tensor_bytes: int
    expert_bytes: int
    dense_bytes: int
    bits_per_weight: float
    kv_bytes_per_token: int | None
    """KV cache of one token in F16, every layer attending to everything; None when no layer has attention."""
    is_recurrent: bool
    """Some layers keep a state of the whole text, which cannot be cut."""
    n_expert_used_by_layer: tuple[int, ...]
    cache: CacheLayout
    tensors: TensorBytes
    alignment_bytes: int
    gguf_version: int

    @property
    def is_split(self) -> bool:
        return len(self.parts) > 1

    @property
    def is_moe(self) -> bool:
        return self.n_expert > 0


def read_gguf_info(path: Path) -> GgufInfo:
    """Check the header of the model at `path` and return what it says.

    Raise `ModelNotFound`, `ModelUnreadable`, `InvalidModel` or `UnsupportedModel`.
    """
    parts = read_parts(path)
    header = parts[0]
    arch = require_model(header)
    hyper = read_hyperparameters(header, arch)
    vocabulary = read_vocabulary(header, arch)
    tensors = [tensor for part in parts for tensor in part.tensors]
    if not tensors:
        raise InvalidModel(
            f"{header.shown} holds no weights.", hint="Get the model, not its vocabulary alone."
        )
    return _assemble(parts, tensors, arch=arch, hyper=hyper, vocabulary=vocabulary)


def _assemble(
    parts: tuple[Header, ...],
    tensors: list[Tensor],
    *,
    arch: str,
    hyper: Hyperparameters,
    vocabulary: Vocabulary,
) -> GgufInfo:
    header = parts[0]
    parameters = sum(tensor.n_parameters for tensor in tensors)
    tensor_bytes = sum(tensor.n_bytes for tensor in tensors)
    expert_bytes = sum(tensor.n_bytes for tensor in tensors if tensor.is_routed_expert)
    template = header.text_bytes(_CHAT_TEMPLATE) or b""
    is_causal = header.values.get(f"{arch}.attention.causal") is not False
    cache = cache_layout(Fields(header, arch), arch, hyper, is_causal=is_causal)
    return GgufInfo(
        path=header.path,
        parts=tuple(part.path for part in parts),
        arch=arch,
        name=header.text("general.name") or "",
        author=_first_text(header, ("general.author", "general.organization")),
        license=_first_text(header, ("general.license", "general.license.name")),
        source=_first_text(header, _SOURCE_KEYS),
        parameters=parameters,
        active_parameters=_active_parameters(tensors, hyper),
        n_expert=hyper.n_expert,
        n_expert_used=max(hyper.n_expert_used_by_layer),
        n_layer=hyper.n_layer,
        n_layer_nextn=hyper.n_layer_nextn,
        n_embd=hyper.n_embd,
        n_head=max(hyper.n_head_by_layer),
        n_head_kv=max(hyper.n_head_kv_by_layer),
        head_dim_k=hyper.head_dim_k,
        head_dim_v=hyper.head_dim_v,
        n_ctx_train=hyper.n_ctx_train,
        n_vocab=vocabulary.n_vocab,
        tokenizer=vocabulary.model,
        tokenizer_pre=vocabulary.pre,
        has_chat_template=bool(template),
        chat_template_sha256=hashlib.sha256(template).hexdigest() if template else "",
        sampling=_under(header, _SAMPLING),
        conversion=_under(header, _CONVERSION),
        quantization=_quantization(header),
        tensor_types=_tensor_types(tensors),
        file_bytes=sum(part.file_bytes for part in parts),
        tensor_bytes=tensor_bytes,
        expert_bytes=expert_bytes,
        dense_bytes=tensor_bytes - expert_bytes,
        bits_per_weight=tensor_bytes * 8 / parameters,
        kv_bytes_per_token=sum(layer.token_values for layer in cache.layers) * _F16_BYTES or None,
        is_recurrent=arch in RECURRENT_ARCHITECTURES,
        n_expert_used_by_layer=hyper.n_expert_used_by_layer,
        cache=cache,
        tensors=sum_tensors(tensors, hyper.n_layer),
        alignment_bytes=header.alignment_bytes,
        gguf_version=header.gguf_version,
    )


def _active_parameters(tensors: Iterable[Tensor], hyper: Hyperparameters) -> int:
    active = 0
    for tensor in tensors:
        if tensor.is_routed_expert and hyper.n_expert:
            layer = _layer_of(tensor.name)
            used = hyper.n_expert_used_by_layer[layer if layer < hyper.n_layer else 0]
            active += tensor.n_parameters * used // hyper.n_expert
        else:
            active += tensor.n_parameters
    return active


def _layer_of(tensor_name: str) -> int:
    match = _LAYER.match(tensor_name)
    return int(match[1]) if match else 0


def _tensor_types(tensors: Iterable[Tensor]) -> tuple[TensorTypeShare, ...]:
    by_name: dict[str, list[Tensor]] = {}
    for tensor in tensors:
        by_name.setdefault(tensor.type.name, []).append(tensor)
    shares = [
        TensorTypeShare(
            name=name,
            count=len(group),
            parameters=sum(tensor.n_parameters for tensor in group),
            bytes=sum(tensor.n_bytes for tensor in group),
        )
        for name, group in by_name.items()
    ]
    return tuple(sorted(shares, key=lambda share: (-share.bytes, share.name)))


def _quantization(header: Header) -> str:
    file_type = header.integer("general.file_type")
    if file_type is None or file_type not in FILE_TYPES:
        return ""
    name = FILE_TYPES[file_type]
    return name if name == "F32" else f"{name} mostly"


def _under(header: Header, prefix: str) -> tuple[tuple[str, int | float | str], ...]:
    """Return the texts and finite numbers whose keys begin with `prefix`, without it."""
    found: list[tuple[str, int | float | str]] = []
    for key, value in header.values.items():
        name = key.removeprefix(prefix)
        if name == key or (isinstance(value, Span) and value.is_array):
            continue
        if isinstance(value, Span):
            found.append((clean_line(name), header.text(key) or ""))
        elif math.isfinite(value):
            found.append((clean_line(name), value))
    return tuple(found)


def _first_text(header: Header, keys: Iterable[str]) -> str:
    return next((text for key in keys if (text := header.text(key))), "")
