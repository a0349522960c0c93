"""Find presets by name, the user's own before those that ship, and write the user's own."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import tomlkit

from edgeapp import durable, paths
from edgeapp.cleantext import clean_line
from edgeapp.errors import ConfigError, EdgeappError, UsageError
from edgeapp.presets.format import MAX_FILE_BYTES, NAME_PATTERN, Preset, parse_preset, read_preset

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ShelvedPreset:
    """A preset's file, and what is in it or what is wrong with it."""

    name: str
    path: Path
    is_own: bool
    """The user's, not one that ships."""
    preset: Preset | None
    problem: EdgeappError | None = None


def own_dir() -> Path:
    """Return the folder of the user's own presets, which may not exist."""
    return paths.config_file().parent / "presets"


def shipped_dir() -> Path:
    """Return the folder of the presets that ship."""
    return paths.data_dir() / "presets"


def all_presets() -> tuple[ShelvedPreset, ...]:
    """Return every preset by name; one that cannot be read has its `problem`."""
    found = {path.stem: path for folder in (shipped_dir(), own_dir()) for path in folder.glob("*.toml")}
    return tuple(_shelved(found[name]) for name in sorted(found))


def load_preset(name: str) -> Preset:
    """Return the preset `name`. Raise `UsageError` when there is none, `ConfigError` when it is broken."""
    return _named(path_of(name))


def path_of(name: str) -> Path:
    """Return the file of the preset `name`. Raise `UsageError` when there is none."""
    if re.fullmatch(NAME_PATTERN, name):
        for folder in (own_dir(), shipped_dir()):
            if (path := folder / f"{name}.toml").is_file():
                return path
    names = [shelved.name for shelved in all_presets()]
    near = difflib.get_close_matches(name.lower(), names, n=1)
    raise UsageError(
        f"There is no preset named {clean_line(name, max_chars=60)!r}.",
        hint=f"Did you mean {near[0]}?" if near else "`edgeapp preset list` shows the names.",
    )


def write_preset(preset: Preset, *, replace: bool = False) -> Path:
    """Write one of the user's own and return its file. Raise `ConfigError`; `UsageError` if there is one."""
    path = own_dir() / f"{preset.name}.toml"
    if path.exists() and not replace:
        raise UsageError(
            f"You have a preset {preset.name!r} already: {clean_line(str(path))}.",
            hint="Take another name, or add --replace.",
        )
    text = to_toml(preset)
    parse_preset(text, where=clean_line(str(path)))
    data = text.encode()
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"The preset {preset.name} has {len(data)} bytes, the most is {MAX_FILE_BYTES}.")
    durable.write(path, data)
    return path


def to_toml(preset: Preset) -> str:
    """Return the file that says `preset`, without the fields that have their default."""
    document = tomlkit.document()
    for key, value in _without_defaults(preset).items():
        document[key] = _item(value)
    return tomlkit.dumps(document)


def _without_defaults(part: msgspec.Struct) -> dict[str, Any]:
    fields = msgspec.structs.fields(part)
    values = {field.name: (getattr(part, field.name), field) for field in fields}
    return {
        name: value
        for name, (value, field) in values.items()
        if value is not None and value != field.default and (value or not isinstance(value, dict))
    }


def _item(value: object) -> Any:
    match value:
        case str() if "\n" in value:
            return tomlkit.string(value, multiline=True)
        case tuple() if value and isinstance(value[0], msgspec.Struct):
            tables = tomlkit.aot()
            for part in value:
                table = tomlkit.table()
                for key, content in _without_defaults(part).items():
                    table[key] = _item(content)
                tables.append(table)
            return tables
        case tuple():
            return list(value)
        case _:
            return value


def _named(path: Path) -> Preset:
    preset = read_preset(path)
    if preset.name != path.stem:
        raise ConfigError(
            f"{clean_line(str(path))}: the name is {preset.name!r}.",
            hint=f"Make it {path.stem!r}, as the file.",
        )
    return preset


def _shelved(path: Path) -> ShelvedPreset:
    is_own = path.parent == own_dir()
    try:
        return ShelvedPreset(name=path.stem, path=path, is_own=is_own, preset=_named(path))
    except EdgeappError as problem:
        return ShelvedPreset(name=path.stem, path=path, is_own=is_own, preset=None, problem=problem)
