"""Read the three layers of settings, file, environment and flags, and put them over the defaults."""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgeapp import paths
from edgeapp.cleantext import clean_line
from edgeapp.config.checking import check, check_key, parse
from edgeapp.config.settings import KEYS, Settings
from edgeapp.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_MAX_FILE_BYTES = 1 << 20

Source = Literal["flag", "env", "file", "default"]


@dataclass(frozen=True, kw_only=True)
class ResolvedSettings:
    """The settings, and for each key where its value came from."""

    settings: Settings
    sources: Mapping[str, Source]


def load_settings(overrides: Mapping[str, object]) -> Settings:
    """Return the settings in force; an override that is None was not given. Raise `ConfigError`."""
    return resolve_settings(overrides).settings


def resolve_settings(overrides: Mapping[str, object]) -> ResolvedSettings:
    """Return the settings in force with the source of each. Raise `ConfigError`."""
    values: dict[str, object] = {}
    sources: dict[str, Source] = dict.fromkeys(KEYS, "default")
    for layer, source in (
        (read_file(paths.config_file()), "file"),
        (_read_environment(os.environ), "env"),
        (_read_flags(overrides), "flag"),
    ):
        values |= layer
        sources |= dict.fromkeys(layer, source)  # type: ignore[arg-type] # the tuple's str is a Source
    return ResolvedSettings(settings=Settings(**values), sources=sources)  # type: ignore[arg-type]


def read_file(path: Path) -> dict[str, object]:
    """Return the checked settings in the TOML file at `path`; none when it does not exist."""
    text = read_text(path)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise ConfigError(
            f"{_toml_position(path, str(problem))} is not valid TOML: {clean_line(str(problem))}",
            hint='A setting is a line such as `temp = 0.7` or `theme = "nord"`.',
        ) from problem
    values: dict[str, object] = {}
    for key, value in table.items():
        where = f"{path}:{_line_of(key, text)}"
        check_key(key, where=where)
        values[key] = check(key, value, where=where, strict=True)
    return values


def read_text(path: Path) -> str:
    """Return the text of the configuration file, empty when there is none. Raise `ConfigError`."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
        if len(data) > _MAX_FILE_BYTES:
            raise ConfigError(f"{path} is larger than {_MAX_FILE_BYTES} bytes, so it is not a settings file.")
        return data.decode()
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as problem:
        raise ConfigError(f"{path} is not UTF-8 text (byte {problem.start}).") from problem
    except OSError as problem:
        raise ConfigError(f"{path} cannot be read: {problem.strerror}.") from problem


def _read_environment(environ: Mapping[str, str]) -> dict[str, object]:
    names = {key: f"EDGEAPP_{key.upper()}" for key in KEYS}
    return {
        key: parse(key, environ[name], where=name)
        for key, name in names.items()
        if environ.get(name, "") != ""
    }


def _read_flags(overrides: Mapping[str, object]) -> dict[str, object]:
    values: dict[str, object] = {}
    for key, value in overrides.items():
        flag = f"--{key.replace('_', '-')}"
        check_key(key, where=flag)
        if value is not None:
            values[key] = check(key, value, where=flag, strict=True)
    return values


def _toml_position(path: Path, message: str) -> str:
    found = re.search(r"\(at line (\d+), column (\d+)\)", message)
    return f"{path}:{found[1]}:{found[2]}" if found else str(path)


def _line_of(key: str, text: str) -> int:
    pattern = re.compile(rf"""^\s*\[*\s*["']?{re.escape(key)}["']?\s*[].=]""")
    return next((n for n, line in enumerate(text.splitlines(), start=1) if pattern.match(line)), 1)
