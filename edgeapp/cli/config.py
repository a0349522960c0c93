"""`edgeapp config`: show and change settings. Every rule about a value stands in `edgeapp.config`."""

from __future__ import annotations

import json

import click

from edgeapp import config, durable, paths
from edgeapp.errors import ConfigError, UsageError

_EPILOG = """\b
Examples:
  edgeapp config                    what is set, and where it comes from
  edgeapp config set temp 0.3       remember a temperature
  EDGEAPP_TEMP=0 edgeapp run        override it once
"""


@click.group(invoke_without_command=True, epilog=_EPILOG)
@click.pass_context
def command(context: click.Context) -> None:
    """Show and change settings.

    Flags override EDGEAPP_* variables, those override config.toml, and that overrides the defaults.
    """
    if context.invoked_subcommand is None:
        context.invoke(show)


@command.command(epilog="Example: edgeapp config show --json")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(*, as_json: bool) -> None:
    """Print every setting with its value and its source."""
    resolved = config.resolve_settings({})
    rows = [(key, getattr(resolved.settings, key), resolved.sources[key]) for key in config.KEYS]
    if as_json:
        click.echo(
            json.dumps({key: {"value": value, "source": source} for key, value, source in rows}, indent=2)
        )
        return
    width = max(map(len, config.KEYS))
    for key, value, source in rows:
        click.echo(f"{key:<{width}} {_shown(value):<24} {_origin(key, source)}".rstrip())


@command.command(epilog="Example: edgeapp config path")
def path() -> None:
    """Print where config.toml is, or would be."""
    click.echo(paths.config_file())


@command.command(epilog="Example: edgeapp config get temp")
@click.argument("key")
def get(key: str) -> None:
    """Print the value of KEY that is in force; nothing when it is unset."""
    config.check_key(key, where="config get")
    value = getattr(config.load_settings({}), key)
    click.echo("" if value is None else _shown(value))


@command.command(
    name="set",
    epilog='Examples: edgeapp config set temp 0.3, edgeapp config set system "Answer briefly."',
    context_settings={"ignore_unknown_options": True},
)
@click.argument("key")
@click.argument("value")
def set_(key: str, value: str) -> None:
    """Write KEY = VALUE into config.toml, keeping comments."""
    _change(key, config.parse(key, value, where="config set"))


@command.command(epilog="Example: edgeapp config unset temp")
@click.argument("key")
def unset(key: str) -> None:
    """Remove KEY from config.toml, so that its default holds again."""
    _change(key, None)


def _change(key: str, value: object) -> None:
    # tomlkit is slow to import and only these two subcommands rewrite the file.
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    file = paths.config_file()
    try:
        document = tomlkit.parse(config.read_text(file))
    except TOMLKitError as problem:
        raise ConfigError(
            f"{file} is not valid TOML: {problem}", hint=f"Correct it by hand: {file}"
        ) from problem
    if value is not None:
        document[key] = value
    elif key in document:
        del document[key]
    else:
        config.check_key(key, where="config unset")
        return
    try:
        durable.write(file, tomlkit.dumps(document).encode())
    except OSError as problem:
        raise UsageError(f"{file} cannot be written: {problem.strerror}.") from problem


def _shown(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return str(value).lower()
        case _:
            return str(value).replace("\n", "⏎")


def _origin(key: str, source: config.Source) -> str:
    match source:
        case "default":
            return ""
        case "env":
            return f"EDGEAPP_{key.upper()}"
        case "file":
            return str(paths.config_file())
        case "flag":
            return f"--{key.replace('_', '-')}"
