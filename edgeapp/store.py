"""The model store: verified, read-only GGUF files, each model in a folder with a manifest. Knows no network.

models/org--repo--Q4_K_M--1a2b3c4d5e6f/   the hex digits are derived from the content
    model-Q4_K_M.gguf                     mode 0444
    manifest.json                         written last: a folder without it is an unfinished download
models/.partial/<sha256>.part             what an interrupted download left, to be continued
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from edgeapp import durable, paths
from edgeapp.errors import ModelUnreadable
from edgeapp.quants import rank

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LOG = logging.getLogger(__name__)
_MANIFEST = "manifest.json"
_PARTIAL = ".partial"
_CHUNK_BYTES = 1 << 22
READ_ONLY = 0o444
_LOCAL = "local/"

FileName = Annotated[str, Meta(pattern=r"^[^/\x00]*\.[Gg][Gg][Uu][Ff]$", max_length=255)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


class StoredFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of a stored model, as it was when it was verified."""

    name: FileName
    size_bytes: Annotated[int, Meta(ge=0)]
    sha256: Sha256


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a stored model came from and what it must contain."""

    repo: str
    quant: str
    commit: str
    """Of the repository; for a model that was converted here, the fingerprint of its source."""
    licence: str
    """As the model card names it; empty when it does not."""
    files: Annotated[tuple[StoredFile, ...], Meta(min_length=1)]
    added: str
    """UTC, ISO 8601."""
    format: Literal[1] = 1


@dataclass(frozen=True, kw_only=True)
class StoredModel:
    """A model that is complete in the store."""

    folder: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        return f"{self.manifest.repo}:{self.manifest.quant}"

    @property
    def path(self) -> Path:
        """What llama.cpp is given: the file, or the first part of a split one."""
        return self.folder / self.manifest.files[0].name

    @property
    def is_local(self) -> bool:
        """Whether it was converted on this machine instead of downloaded."""
        return self.manifest.repo.startswith(_LOCAL)

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.manifest.files)

    def has_all_files(self) -> bool:
        """Whether every file is there with its length; `verify` compares the content."""
        return all(_has_size(self.folder / file.name, file.size_bytes) for file in self.manifest.files)


@dataclass(frozen=True, kw_only=True)
class Damage:
    """A stored file that is not what the manifest says."""

    path: Path
    reason: str


def installed() -> tuple[StoredModel, ...]:
    """Return every complete model, sorted by name. A folder with an unreadable manifest is not complete."""
    found = (_read(manifest) for manifest in paths.models_dir().glob(f"*/{_MANIFEST}"))
    return tuple(sorted((model for model in found if model), key=lambda model: model.name.lower()))


def find(repo: str, *, quant: str | None = None, file: str | None = None) -> tuple[StoredModel, ...]:
    """Return the stored models of a repository, preferred quant first, then the newest.

    As in `quants.choose`, a plain quant also finds the vendor's `UD-` variant when there is no plain one.
    """
    of_repo = [
        model
        for model in installed()
        if model.manifest.repo.lower() == repo.lower()
        and (file is None or any(stored.name == Path(file).name for stored in model.manifest.files))
    ]
    wanted = of_repo if quant is None else _of_quant(of_repo, quant) or _of_quant(of_repo, f"UD-{quant}")
    newest_first = sorted(wanted, key=lambda model: model.manifest.added, reverse=True)
    return tuple(sorted(newest_first, key=lambda model: rank(model.manifest.quant)))


def folder_for(*, repo: str, quant: str, sha256s: Sequence[str]) -> Path:
    """Return the folder of the model with this content, whether or not it exists."""
    content = hashlib.sha256("".join(sha256s).encode()).hexdigest()[:12]
    return paths.models_dir() / f"{repo.replace('/', '--')}--{quant}--{content}"


def local_repo(name: str) -> str:
    """Return the repository name under which a model that was converted here is stored."""
    return _LOCAL + name


def partial_path(sha256: str) -> Path:
    """Return where the content with this hash is gathered while it is downloaded."""
    return paths.make_private(partial_dir()) / f"{sha256}.part"


def partial_dir() -> Path:
    """Return the folder of unfinished downloads, whether or not it exists."""
    return paths.models_dir() / _PARTIAL


def partial_bytes() -> int:
    """Return how much interrupted downloads hold on the disk."""
    return sum(part.stat().st_size for part in partial_dir().glob("*.part"))


def place(part: Path, *, folder: Path, name: str) -> None:
    """Move verified content into its folder, read-only."""
    paths.make_private(folder)
    part.chmod(READ_ONLY)
    durable.move(part, folder / name)


def finish(folder: Path, manifest: Manifest) -> StoredModel:
    """Write the manifest, which makes the folder an installed model."""
    durable.write(folder / _MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    durable.sync_folder(folder.parent)
    return StoredModel(folder=folder, manifest=manifest)


def remove(model: StoredModel) -> None:
    """Delete a model: first its manifest, so that what a failure leaves is an unfinished download."""
    if model.folder.parent != paths.models_dir() or model.folder.is_symlink():
        raise ModelUnreadable(f"{model.folder} is not a folder of the model store, so nothing was removed.")
    (model.folder / _MANIFEST).unlink()
    for file in model.manifest.files:
        (model.folder / file.name).unlink(missing_ok=True)
    durable.sync_folder(model.folder)
    model.folder.rmdir()


def verify(model: StoredModel, *, on_bytes: Callable[[int], None] = lambda _: None) -> tuple[Damage, ...]:
    """Compare every file with the manifest; `on_bytes` gets the number of bytes just read."""
    checked = (_damage_of(model.folder / file.name, file, on_bytes=on_bytes) for file in model.manifest.files)
    return tuple(damage for damage in checked if damage)


def sha256_of(path: Path, *, on_bytes: Callable[[int], None] = lambda _: None) -> str:
    """Return the hash of a file's content in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            on_bytes(len(chunk))
    return digest.hexdigest()


def _has_size(path: Path, size_bytes: int) -> bool:
    try:
        return path.stat().st_size == size_bytes
    except OSError:
        return False


def _of_quant(models: Sequence[StoredModel], quant: str) -> list[StoredModel]:
    return [model for model in models if model.manifest.quant.upper() == quant.upper()]


def _damage_of(path: Path, file: StoredFile, *, on_bytes: Callable[[int], None]) -> Damage | None:
    try:
        size_bytes = path.stat().st_size
        if size_bytes != file.size_bytes:
            return Damage(path=path, reason=f"has {size_bytes} bytes instead of {file.size_bytes}")
        actual = sha256_of(path, on_bytes=on_bytes)
    except OSError as problem:
        return Damage(path=path, reason=f"cannot be read: {problem.strerror}")
    if actual != file.sha256:
        return Damage(path=path, reason=f"has sha256 {actual} instead of {file.sha256}")
    return None


def _read(manifest: Path) -> StoredModel | None:
    try:
        return StoredModel(
            folder=manifest.parent, manifest=msgspec.json.decode(manifest.read_bytes(), type=Manifest)
        )
    except (OSError, msgspec.MsgspecError) as problem:
        _LOG.warning("manifest_unreadable path=%s reason=%s", manifest, problem)
        return None
