"""From what the user typed to a model that can be converted: a folder, a repository, a GGUF, the demo."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from edgeapp import catalog, paths
from edgeapp.catalog import CatalogEntry
from edgeapp.errors import UsageError
from edgeapp.references import HubRef, LocalPath
from edgeapp_converters.hub_source import open_hub
from edgeapp_converters.opening import open_checkpoint, open_model
from edgeapp_converters.upcycle import build_demo_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp_converters.events import Report
    from edgeapp_converters.opening import OpenedModel


def open_source(
    reference: str, *, pre: str | None, bridge: bool, keep_shards: bool, offline: bool, report: Report
) -> OpenedModel:
    """Open what `reference` names. Raise `EdgeappError` for what cannot be converted."""
    parsed = catalog.parse_reference(reference)
    if bridge and not (isinstance(parsed, LocalPath) and parsed.path.is_dir()):
        raise UsageError(
            "--bridge reads a checkpoint folder on this machine.",
            hint="Download the repository first, for example with `hf download org/repo --local-dir model`.",
        )
    match parsed:
        case LocalPath(path=path):
            if bridge:
                # The bridge is another world, with an environment of its own.
                from edgeapp_converters.bridge import open_bridged

                return open_bridged(path, pre=pre, offline=offline, report=report)
            return open_model(path, pre=pre, report=report)
        case HubRef():
            checkpoint = open_hub(parsed, offline=offline, keep_shards=keep_shards, report=report)
            return open_checkpoint(checkpoint, pre=pre, report=report)
        case CatalogEntry(upcycled_from=str(dense)):
            return open_model(upcycled_checkpoint(dense, report=report), report=report)
        case CatalogEntry():
            return open_model(catalog.resolve_local(reference), report=report)
        case _:
            assert_never(parsed)


def upcycled_checkpoint(dense: str, *, report: Report) -> Path:
    """Return the folder of the MoE checkpoint made of the catalog entry `dense`, making it if need be."""
    folder = upcycled_folder(dense)
    if not (folder / "config.json").exists():  # written last
        build_demo_checkpoint(catalog.resolve_local(dense), folder, report=report)
    return folder


def upcycled_folder(dense: str) -> Path:
    return paths.cache_dir() / "upcycled" / dense
