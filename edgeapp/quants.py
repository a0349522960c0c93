"""Which files of a repository listing make one model, and which model to take. Pure: knows no network.

A quant is the GGUF type named in a file or folder name (`Q4_K_M`, `MXFP4`). A model may be split into
`name-00001-of-00003.gguf` parts, which belong together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from edgeapp.cleantext import clean_line
from edgeapp.errors import ModelNotFound, NoGguf, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PREFERENCE = (
    *("Q4_K_M", "Q4_K_XL", "Q4_K_L", "Q4_K_S", "IQ4_NL", "IQ4_XS", "Q4_1", "Q4_0"),
    *("MXFP4", "MXFP4_MOE", "NVFP4"),
    *("Q5_K_M", "Q5_K_L", "Q5_K_S", "Q5_1", "Q5_0", "Q6_K", "Q6_K_L", "Q8_0"),
    *("IQ3_M", "Q3_K_L", "Q3_K_M", "Q3_K_S", "F16", "BF16", "F32"),
)
"""What is taken when no quant was asked for, best first: four bits, then more bits, then fewer."""

_QUANT = re.compile(
    r"(?<![A-Za-z0-9])"
    r"((?:UD-)?(?:I?Q\d(?:_(?:[0-9]|K|XXS|XS|S|M|L|XL|XXL|NL))+|I?Q\d_K|TQ\d_\d|MXFP4(?:_MOE)?|NVFP4|BF16|F16|F32))"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_SPLIT = re.compile(r"(?P<stem>.*)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.gguf", re.IGNORECASE)
_NOT_A_MODEL = re.compile(r"mmproj|imatrix", re.IGNORECASE)
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+() -]{0,240}\.gguf", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file in a repository. `sha256` is empty when the hub does not know it."""

    path: str
    size_bytes: int
    sha256: str

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name


@dataclass(frozen=True, kw_only=True)
class RemoteModel:
    """One model: a single file, or all parts of a split one in order."""

    quant: str
    files: tuple[RemoteFile, ...]
    n_parts: int = 1
    """How many files there should be."""

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def models_in(listing: Iterable[RemoteFile]) -> tuple[RemoteModel, ...]:
    """Group a listing into models, leaving out projectors, importance matrices and odd names."""
    groups: dict[str, list[RemoteFile]] = {}
    for file in listing:
        if _is_model_file(file):
            groups.setdefault(_group_of(file), []).append(file)
    return tuple(_assemble(files) for _, files in sorted(groups.items()))


def choose(
    models: Sequence[RemoteModel], *, repo: str, quant: str | None = None, file: str | None = None
) -> RemoteModel:
    """Return the model that is asked for, or the most preferred one.

    Raise `ModelNotFound` when there is none or a part is missing, `UsageError` when several fit.
    """
    if not models:
        raise NoGguf(
            f"{repo} contains no GGUF model.", hint="Look for a repository whose name ends in -GGUF."
        )
    fitting = _fitting(models, quant=quant, file=file)
    if not fitting:
        wanted = file or quant or "quant of a known name"
        raise ModelNotFound(
            f"{repo} has no {wanted}; it has {_listed(models)}.", hint=_how_to_ask(repo, models)
        )
    if len(fitting) > 1:
        raise UsageError(
            f"{repo} has several models that fit: {_listed(fitting)}.", hint=_how_to_ask(repo, fitting)
        )
    chosen = fitting[0]
    if len(chosen.files) != chosen.n_parts:
        raise ModelNotFound(
            f"{repo} has only {len(chosen.files)} of the {chosen.n_parts} parts of its {chosen.quant} model.",
            hint="Choose another quant, or ask the repository's owner.",
        )
    return chosen


def rank(quant: str) -> tuple[int, bool]:
    """Order quants by `PREFERENCE`; unknown ones come last, vendor variants (`UD-…`) after the plain type."""
    plain = quant.upper().removeprefix("UD-")
    place = PREFERENCE.index(plain) if plain in PREFERENCE else len(PREFERENCE)
    return place, quant.upper().startswith("UD-")


def _fitting(models: Sequence[RemoteModel], *, quant: str | None, file: str | None) -> Sequence[RemoteModel]:
    if file is not None:
        return [model for model in models if any(part.path == file for part in model.files)]
    if quant is None:
        best = min(rank(model.quant) for model in models)
        known = best[0] < len(PREFERENCE) or len(models) == 1
        return [model for model in models if known and rank(model.quant) == best]
    wanted = quant.upper()
    exact = [model for model in models if model.quant.upper() == wanted]
    return exact or [model for model in models if model.quant.upper() == f"UD-{wanted}"]


def _is_model_file(file: RemoteFile) -> bool:
    parts = PurePosixPath(file.path).parts
    return (
        _SAFE_NAME.fullmatch(file.name) is not None
        and _NOT_A_MODEL.search(file.name) is None
        and ".." not in parts
        and not file.path.startswith("/")
    )


def _group_of(file: RemoteFile) -> str:
    split = _SPLIT.fullmatch(file.path)
    return f"{split['stem']}-of-{split['parts']}.gguf" if split else file.path


def _assemble(files: list[RemoteFile]) -> RemoteModel:
    ordered = tuple(sorted(files, key=lambda file: file.path))
    split = _SPLIT.fullmatch(ordered[0].path)
    return RemoteModel(
        quant=_quant_of(ordered[0].path), files=ordered, n_parts=int(split["parts"]) if split else 1
    )


def _quant_of(path: str) -> str:
    for part in reversed(PurePosixPath(path).parts):
        found = _QUANT.findall(part)
        if found:
            return str(found[-1]).upper()
    return re.sub(r"[^A-Za-z0-9._]+", "-", PurePosixPath(path).stem).strip("-.")


def _listed(models: Sequence[RemoteModel]) -> str:
    shown = [
        f"{model.quant} ({model.size_bytes / 1e9:.1f} GB, {model.files[0].path})" for model in models[:30]
    ]
    more = [f"{len(models) - 30} more"] if len(models) > 30 else []  # noqa: PLR2004 - the cut above
    return ", ".join(clean_line(line) for line in (*shown, *more))


def _how_to_ask(repo: str, models: Sequence[RemoteModel]) -> str:
    best = min(models, key=lambda model: rank(model.quant))
    return f"For example hf:{repo}:{best.quant}"


def is_split_part(name: str) -> bool:
    """Tell whether a file name is that of one part of a split model."""
    return _SPLIT.fullmatch(name) is not None
