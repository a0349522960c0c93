"""A model that has to be converted before it can run: done once, kept in the store like a download."""

from __future__ import annotations

import re
import shutil
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from edgeapp import catalog, paths, store
from edgeapp.cleantext import clean_line
from edgeapp.cli import conversion_progress
from edgeapp.cli.conversion_source import open_source, upcycled_folder
from edgeapp.cli.conversion_wording import quality_rows, summary_rows
from edgeapp.cli.table import print_rows
from edgeapp.hardware import read_host
from edgeapp.references import HubRef, LocalPath
from edgeapp_converters import texts
from edgeapp_converters.pipeline import ConversionOptions, Verification, convert
from edgeapp_converters.recipe import default_recipe

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp.catalog import CatalogEntry, ResolvedModel
    from edgeapp_converters.opening import OpenedModel
    from edgeapp_converters.pipeline import ConversionResult

_DEMO_MAX_TOKENS = 2048
"""Of the evaluation text: enough to show the loss, and the first use takes two minutes on two cores."""
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def make_upcycled(entry: CatalogEntry, *, offline: bool) -> ResolvedModel:
    """Make the MoE that `entry` describes out of its dense model, and measure what the 4 bits cost."""
    dense = entry.upcycled_from or ""
    click.echo(f"{clean_line(entry.title)}: {clean_line(entry.description, max_chars=500)}", err=True)
    click.echo("It is made once, now; after that it opens at once.", err=True)
    repo = store.local_repo(entry.name)
    stored = _converted(entry.name, repo=repo, licence=entry.licence, offline=offline, verify=True)
    shutil.rmtree(upcycled_folder(dense), ignore_errors=True)
    return catalog.resolved_from_store(stored, entry=entry)


def make_from_checkpoint(parsed: LocalPath | HubRef, *, offline: bool) -> ResolvedModel:
    """Convert a checkpoint folder or repository, or return what an earlier run made of it."""
    match parsed:
        case HubRef(repo=repo):
            stored = _converted(f"hf:{repo}", repo=repo, offline=offline)
        case LocalPath(path=path):
            name = _UNSAFE.sub("-", path.resolve().name).strip("-.") or "model"
            stored = _converted(str(path), repo=store.local_repo(name), offline=offline)
    return catalog.resolved_from_store(stored)


def _converted(
    reference: str, *, repo: str, offline: bool, licence: str = "", verify: bool = False
) -> store.StoredModel:
    with conversion_progress.shown() as report:
        opened = open_source(
            reference, pre=None, bridge=False, keep_shards=False, offline=offline, report=report
        )
        try:
            options = _options(opened, verify=verify)
            quant = options.recipe.name
            folder = store.folder_for(repo=repo, quant=quant, sha256s=[opened.source.fingerprint])
            if present := _present(folder, repo):
                return present
            paths.make_private(folder)
            result = convert(
                opened, folder / f"{repo.rpartition('/')[2]}-{quant}.gguf", options, report=report
            )
        finally:
            opened.source.close()
    _tell(result)
    return store.finish(folder, _manifest(repo, quant, opened, result, licence=licence))


def _present(folder: Path, repo: str) -> store.StoredModel | None:
    found = (model for model in store.find(repo) if model.folder == folder and model.has_all_files())
    return next(found, None)


def _options(opened: OpenedModel, *, verify: bool) -> ConversionOptions:
    measured = Verification(text=texts.find(texts.EVALUATION), max_tokens=_DEMO_MAX_TOKENS)
    return ConversionOptions(
        recipe=default_recipe(opened.plan),
        n_threads=read_host().physical_cores,
        verification=measured if verify else None,
    )


def _manifest(
    repo: str, quant: str, opened: OpenedModel, result: ConversionResult, *, licence: str
) -> store.Manifest:
    file = store.StoredFile(name=result.path.name, size_bytes=result.n_bytes, sha256=result.sha256)
    result.path.chmod(store.READ_ONLY)
    return store.Manifest(
        repo=repo,
        quant=quant,
        commit=opened.source.fingerprint,
        licence=licence or opened.licence,
        files=(file,),
        added=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _tell(result: ConversionResult) -> None:
    rows = summary_rows(result.summary)
    if result.quality is not None:
        rows += quality_rows(result.quality, base=result.quality_base)
    print_rows([*rows, ("took", f"{result.seconds:.0f} s")], err=True)
