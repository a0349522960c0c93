"""Which shards a checkpoint consists of, told from the names of its files and its index. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from edgeapp.cleantext import clean, clean_line
from edgeapp.errors import InvalidCheckpoint, ModelNotFound, UnsupportedCheckpoint
from edgeapp_converters.safetensors import parse_object

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from edgeapp_converters.source import SourceTensor

INDEX = "model.safetensors.index.json"
_WHOLE = "model.safetensors"
_SUFFIX = ".safetensors"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_NUMBERED = re.compile(r"(?P<prefix>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors", re.DOTALL)
_NOT_THE_MODEL = re.compile(r"adapter_model.*|consolidated.*|\..*", re.DOTALL)
"""Adapters; the same weights in Mistral's own layout; what editors and file managers leave behind."""
_MAX_SHARDS = 10_000
_FEW = 3


def parse_index(data: bytes) -> dict[str, str]:
    """Return which shard each tensor is in. Raise `InvalidCheckpoint` for names that are not bare files."""
    weight_map = parse_object(data, what=INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InvalidCheckpoint(f"{INDEX} has no weight_map.", hint="Download it again.")
    for shard in weight_map.values():
        if not isinstance(shard, str) or not is_shard_name(shard):
            raise InvalidCheckpoint(
                f"{INDEX} names {clean_line(str(shard), max_chars=80)!r}, which is no shard beside it.",
                hint="Do not use this checkpoint: its index leads out of its folder.",
            )
    return weight_map


def is_shard_name(name: str) -> bool:
    """Tell whether `name` is that of a safetensors file in the checkpoint's own folder."""
    return (
        name.endswith(_SUFFIX)
        and not name.startswith(".")
        and "/" not in name
        and clean(name) == name
        and name.isprintable()
        and len(name.encode()) <= 255  # noqa: PLR2004 - NAME_MAX of Linux
    )


def choose_shards(names: Collection[str], index: Mapping[str, str], *, shown: str) -> tuple[str, ...]:
    """Return the names of the shards among the files `names`, sorted; `shown` is where they are.

    With an index these are its shards; else `model.safetensors`, or all safetensors files. Raise
    `InvalidCheckpoint` when some are missing and `UnsupportedCheckpoint` or `ModelNotFound` when there are
    none.
    """
    wanted = set(index.values()) if index else _without_index(names)
    if not wanted:
        raise _nothing_to_convert(names, shown)
    missing = sorted(wanted.difference(names))
    if missing:
        raise InvalidCheckpoint(
            f"{len(missing)} of the {len(wanted)} shards are missing in {shown}: {few(missing)}.",
            hint="Download the checkpoint again; what is there need not be fetched twice.",
        )
    if len(wanted) > _MAX_SHARDS:
        raise InvalidCheckpoint(f"{shown} has {len(wanted)} shards; at most {_MAX_SHARDS} make sense.")
    return tuple(sorted(wanted))


def merge_tensors(tensors: Iterable[SourceTensor], index: Mapping[str, str]) -> dict[str, SourceTensor]:
    """Return the tensors of all shards by name.

    Raise `InvalidCheckpoint` when two shards have the same tensor, or the index names one that its shard
    lacks.
    """
    merged: dict[str, SourceTensor] = {}
    for tensor in tensors:
        if tensor.name in merged:
            raise InvalidCheckpoint(
                f"{clean_line(tensor.name)} is in {merged[tensor.name].shard} and in {tensor.shard}.",
                hint="Two checkpoints are mixed in this folder; keep one.",
            )
        merged[tensor.name] = tensor
    lost = [name for name, shard in index.items() if name not in merged or merged[name].shard != shard]
    if lost:
        raise InvalidCheckpoint(
            f"{INDEX} names {len(lost)} tensors that their shards do not have: {few(lost)}.",
            hint="Index and shards do not belong together; download the checkpoint again.",
        )
    return merged


def few(names: list[str]) -> str:
    """Return the first names, safe to show."""
    shown = ", ".join(clean_line(name, max_chars=80) for name in names[:_FEW])
    return f"{shown} and {len(names) - _FEW} more" if len(names) > _FEW else shown


def _without_index(names: Collection[str]) -> set[str]:
    """The shards when nobody lists them: those that others count themselves among are wanted too."""
    found = {name for name in names if is_shard_name(name) and not _NOT_THE_MODEL.fullmatch(name)}
    if _WHOLE in found:
        return {_WHOLE}
    wanted = set(found)
    for match in filter(None, map(_NUMBERED.fullmatch, found)):
        count = min(int(match["count"]), _MAX_SHARDS)
        wanted |= {f"{match['prefix']}-{n:05}-of-{match['count']}{_SUFFIX}" for n in range(1, count + 1)}
    return wanted


def _nothing_to_convert(names: Collection[str], shown: str) -> UnsupportedCheckpoint | ModelNotFound:
    """Say what is wrong with a folder without weights that can be used."""
    if "adapter_config.json" in names:
        return UnsupportedCheckpoint(
            f"{shown} holds an adapter, not a model.", hint="Convert the model that it belongs to."
        )
    if any(name.startswith("consolidated") and name.endswith(_SUFFIX) for name in names):
        return UnsupportedCheckpoint(
            f"{shown} holds the weights in Mistral's own layout only.",
            hint="Look for the repository with config.json and model*.safetensors beside consolidated*.",
        )
    if any(name.endswith(_PICKLES) for name in names):
        return UnsupportedCheckpoint(
            f"{shown} holds pickled weights, and unpickling runs whatever code is in the file.",
            hint="Look for a safetensors version, or convert it where you trust it: "
            "transformers' save_pretrained writes safetensors.",
        )
    if any(name.endswith(".gguf") for name in names):
        return UnsupportedCheckpoint(
            f"{shown} holds a GGUF, not a checkpoint.",
            hint="Give the path of the .gguf file itself. `edgeapp run` takes a repository's GGUF as it is.",
        )
    return ModelNotFound(
        f"{shown} holds no safetensors.", hint="Give the folder with config.json and *.safetensors."
    )
