"""`edgeapp history`: list, search, read, move and delete the conversations of the chat."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
import msgspec

from edgeapp import durable
from edgeapp.cli.json_errors import json_errors
from edgeapp.cli.table import print_columns
from edgeapp.errors import HistoryError, InvalidExport, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeapp.history import Conversation, Database, Hit

_EPILOG = """\b
Examples:
  edgeapp history                                     the newest conversations
  edgeapp history search gear box                     where these words were said
  edgeapp history export 12 -o chat.md                one conversation to read
  edgeapp history export --all --format json -o all.json
  edgeapp history import all.json                     all of them on another machine
"""
_MAX_IMPORT_BYTES = 1 << 30


@click.group(invoke_without_command=True, epilog=_EPILOG)
@click.pass_context
def command(context: click.Context) -> None:
    """List, search, read, move and delete conversations."""
    if context.invoked_subcommand is None:
        context.invoke(list_)


@command.command(name="list", epilog="Example: edgeapp history list --limit 5 --json")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1), help="Most that are printed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def list_(*, limit: int, as_json: bool) -> None:
    """List conversations: pinned ones first, then the newest."""
    from edgeapp.history import conversations

    with _history(as_json=as_json) as database:
        found = conversations.page(database, n_max=limit)
    if as_json:
        click.echo(_json(found))
    elif found:
        print_columns([("id", "", "changed", "title", "model"), *map(_row, found)])
    else:
        click.echo("There is no conversation yet.")


@command.command(epilog="Example: edgeapp history search gear box --limit 10")
@click.argument("words", nargs=-1, required=True)
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1), help="Most that are printed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def search(words: tuple[str, ...], *, limit: int, as_json: bool) -> None:
    """Find conversations in which all WORDS stand, in a title or in one message.

    A word finds all words that begin with it; case and accents do not matter.
    """
    from edgeapp.history.search import search as find

    with _history(as_json=as_json) as database:
        hits = find(database, " ".join(words), n_max=limit)
    if as_json:
        click.echo(_json(hits))
        return
    for hit in hits:
        click.echo(f"{hit.conversation.id:>5}  {click.style(_title(hit.conversation), bold=True)}")
        if hit.message_id is not None:
            click.echo(f"       {_excerpt(hit)}")
    if not hits:
        click.echo("Nothing found.")


@command.command(epilog="Example: edgeapp history show 12")
@click.argument("conversation_id", metavar="ID", type=int)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(conversation_id: int, *, as_json: bool) -> None:
    """Print the conversation ID as Markdown, as it is shown in the chat."""
    from edgeapp.history import conversations, transfer, tree

    with _history(as_json=as_json) as database:
        if as_json:
            conversation = conversations.get(database, conversation_id)
            path = tree.path(database, conversation_id)
            click.echo(_json({"conversation": conversation, "messages": path}))
        else:
            click.echo(transfer.export_markdown(database, conversation_id), nl=False)


@command.command(epilog="Example: edgeapp history export --all --format json -o all.json")
@click.argument("conversation_ids", metavar="[ID]...", nargs=-1, type=int)
@click.option("--all", "all_", is_flag=True, help="Every conversation.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["markdown", "json"]),
    default="markdown",
    show_default=True,
    help="Markdown has what is shown; JSON has all branches and can be imported.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write; stdout without it.")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
def export(
    conversation_ids: tuple[int, ...],
    *,
    all_: bool,
    kind: Literal["markdown", "json"],
    output: Path | None,
    as_json: bool,
) -> None:
    """Write the conversations ID… as Markdown or JSON."""
    from edgeapp.history import transfer

    if bool(conversation_ids) == all_:
        raise UsageError("Name conversations by their id, or give --all.", hint="edgeapp history list")
    with _history(as_json=as_json) as database:
        ids = _all_ids(database) if all_ else conversation_ids
        if as_json or kind == "json":
            data = transfer.export_json(database, ids)
        else:
            data = "\n".join(transfer.export_markdown(database, each) for each in ids).encode()
    if output is None:
        click.echo(data, nl=False)
        return
    try:
        durable.write(output, data)
    except OSError as problem:
        raise UsageError(f"{output} cannot be written: {problem.strerror}.") from problem


@command.command(name="import", epilog="Example: edgeapp history import all.json")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def import_(file: Path, *, as_json: bool) -> None:
    """Add the conversations of FILE, which `edgeapp history export --format json` wrote.

    They come beside what is there, also if they came before.
    """
    from edgeapp.history import transfer

    with _history(as_json=as_json) as database:
        added = transfer.import_json(database, _read(file))
    if as_json:
        click.echo(_json({"added": added}))
    else:
        click.echo(f"Added {len(added)} conversation{'' if len(added) == 1 else 's'}.")


@command.command(epilog='Example: edgeapp history rename 12 "Gear box"')
@click.argument("conversation_id", metavar="ID", type=int)
@click.argument("title")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def rename(conversation_id: int, title: str, *, as_json: bool) -> None:
    """Give the conversation ID the title TITLE."""
    from edgeapp.history import conversations

    with _history(as_json=as_json) as database:
        renamed = conversations.rename(database, conversation_id, title)
    click.echo(_json(renamed) if as_json else f"{renamed.id} is called {renamed.title!r} now.")


@command.command(epilog="Example: edgeapp history pin 12")
@click.argument("conversation_id", metavar="ID", type=int)
@click.option("--off", is_flag=True, help="Let it go again.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def pin(conversation_id: int, *, off: bool, as_json: bool) -> None:
    """Keep the conversation ID at the top of the list."""
    from edgeapp.history import conversations

    with _history(as_json=as_json) as database:
        pinned = conversations.pin(database, conversation_id, is_pinned=not off)
    click.echo(_json(pinned) if as_json else f"{pinned.id} is {'no longer ' if off else ''}pinned.")


@command.command(epilog="Example: edgeapp history delete 12 13")
@click.argument("conversation_ids", metavar="ID...", nargs=-1, type=int, required=True)
@click.option("--now", is_flag=True, help="For good, together with everything deleted before.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def delete(conversation_ids: tuple[int, ...], *, now: bool, as_json: bool) -> None:
    """Delete the conversations ID…; `edgeapp history undo` brings one back for a week."""
    from edgeapp.history import deletions

    with _history(as_json=as_json) as database:
        with database.writing():
            for each in conversation_ids:
                deletions.delete_conversation(database, each)
        if now:
            deletions.purge(database)
    if as_json:
        click.echo(_json({"deleted": conversation_ids, "for_good": now}))
    else:
        names = ", ".join(map(str, conversation_ids))
        click.echo(f"Deleted {names}{' for good' if now else ''}.")


@command.command(epilog="Example: edgeapp history undo")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def undo(*, as_json: bool) -> None:
    """Take the last deletion back."""
    from edgeapp.history import conversations, deletions

    with _history(as_json=as_json) as database:
        undone = deletions.undo(database)
        if undone is None:
            raise HistoryError("There is no deletion to take back.")
        conversation = conversations.get(database, undone.conversation_id)
    if as_json:
        click.echo(_json({"conversation": conversation, "message_id": undone.message_id}))
    else:
        what = "A message of " if undone.message_id else ""
        click.echo(f"{what}{conversation.id} ({_title(conversation)}) is back.")


@contextmanager
def _history(*, as_json: bool) -> Iterator[Database]:
    """Open the history and say on stderr what happened to it."""
    from edgeapp.history import open_history

    with json_errors(as_json=as_json):
        opened = open_history()
        with opened.database as database:
            if opened.notice:
                click.echo(opened.notice, err=True)
            yield database


def _all_ids(database: Database) -> tuple[int, ...]:
    from edgeapp.history import conversations

    ids: list[int] = []
    last: Conversation | None = None
    while found := conversations.page(database, n_max=500, after=last):
        ids += [each.id for each in found]
        last = found[-1]
    return tuple(ids)


def _read(file: Path) -> bytes:
    try:
        with sys.stdin.buffer if str(file) == "-" else file.open("rb") as source:
            data = source.read(_MAX_IMPORT_BYTES + 1)
    except OSError as problem:
        raise UsageError(f"{file} cannot be read: {problem.strerror}.") from problem
    if len(data) > _MAX_IMPORT_BYTES:
        raise InvalidExport(f"{file} has more than {_MAX_IMPORT_BYTES:,} bytes.")
    return data


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _row(conversation: Conversation) -> tuple[str, ...]:
    changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(conversation.updated_s))
    mark = "pinned" if conversation.is_pinned else ""
    return (str(conversation.id), mark, changed, _title(conversation), conversation.model)


def _title(conversation: Conversation) -> str:
    return conversation.title or "(nothing said yet)"


def _excerpt(hit: Hit) -> str:
    """Return the excerpt as one line, with what was found underlined in a terminal."""
    pieces = (click.style(each.text, underline=True) if each.is_match else each.text for each in hit.excerpt)
    return "".join(pieces).replace("\n", " ")
