"""Settings: what the user wants, from flags, the environment and `config.toml`, checked once.

A setting has one name everywhere: `temp` is `--temp`, `EDGEAPP_TEMP` and `temp = …` in the file.
Flags beat the environment, the environment beats the file, the file beats the defaults. Knows no model
and no hardware: a `None` or a 0 is decided where those are known.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import msgspec
from msgspec import Meta

from edgeapp import paths
from edgeapp.cleantext import clean_line
from edgeapp.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_MAX_SEED = 2**32 - 1  # llama.h: the seed is a uint32_t
_MAX_INT32 = 2**31 - 1  # llama.h: n_threads and top_k are int32_t
_MAX_FILE_BYTES = 1 << 20
_MIN_CTX = 64
_NEAR = 0.5  # lets `temperature` find `temp`

Temp = Annotated[float, Meta(ge=0, le=100, description="a number from 0 (greedy) to 100")]
TopP = Annotated[float, Meta(gt=0, le=1, description="a number above 0, at most 1 (off)")]
TopK = Annotated[int, Meta(ge=0, le=_MAX_INT32, description="a whole number from 0 (off) up")]
MinP = Annotated[float, Meta(ge=0, le=1, description="a number from 0 (off) to 1")]
Seed = Annotated[int, Meta(ge=0, le=_MAX_SEED, description=f"a whole number from 0 to {_MAX_SEED}")]
Count = Annotated[int, Meta(ge=0, le=_MAX_INT32, description="a whole number from 0 up")]
Context = Annotated[
    int, Meta(ge=0, le=_MAX_INT32, description=f"0 or a whole number of tokens from {_MIN_CTX} up")
]
Threads = Annotated[
    int, Meta(ge=0, le=1024, description="a whole number from 0 (all physical cores) to 1024")
]
ThemeName = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="the name of a Textual theme, such as nord")
]
Offline = Annotated[bool, Meta(description="true or false")]
Gpu = Annotated[Literal["auto", "off"], Meta(description="auto or off")]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"], Meta(description="debug, info, warning or error")
]

Source = Literal["flag", "env", "file", "default"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a user may choose."""

    system: Annotated[str, Meta(max_length=100_000, description="a text")] | None = None
    """System prompt. None sends none."""
    temp: Temp | None = None
    """Temperature; 0 always takes the likeliest token. None: the catalog's advice, else llama.cpp's 0.8."""
    top_p: TopP | None = None
    """Sample from the likeliest tokens that together have this probability. None: catalog, else 0.95."""
    top_k: TopK | None = None
    """Sample from this many likeliest tokens. None: catalog, else 40."""
    min_p: MinP | None = None
    """Drop tokens less likely than this share of the likeliest. None: catalog, else 0.05."""
    seed: Seed | None = None
    """Seed of the sampler. None draws a fresh one for every answer."""
    max_tokens: Count = 0
    """Longest answer in tokens. 0: until the model ends or the context is full."""
    ctx: Context = 0
    """Context length in tokens. 0: what the model was trained with, at most 8192."""
    threads: Threads = 0
    """Compute threads. 0: one per physical core."""
    gpu: Gpu = "auto"
    """Use GPUs: auto puts on them what fits, off keeps everything on the CPU."""
    offline: Offline = False
    """Never touch the network. `HF_HUB_OFFLINE=1` has the same effect."""
    theme: ThemeName = "textual-dark"
    """Theme of the terminal user interface."""
    log_level: LogLevel = "warning"
    """How much is logged to stderr."""


_TYPES: dict[str, Any] = get_type_hints(Settings, include_extras=True)
KEYS: tuple[str, ...] = Settings.__struct_fields__
"""Every setting, in the order of `Settings`."""


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
        values[key] = _check(key, value, where=where, strict=True)
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


def check_key(key: str, *, where: str) -> None:
    """Raise `ConfigError` with the nearest names unless `key` is a setting."""
    if key in KEYS:
        return
    near = difflib.get_close_matches(key.lower().replace("-", "_"), KEYS, n=1, cutoff=_NEAR)
    raise ConfigError(
        f"{where}: there is no setting {clean_line(key, max_chars=60)!r}.",
        hint=f"Did you mean {near[0]}?" if near else f"The settings are {', '.join(KEYS)}.",
    )


def parse(key: str, text: str, *, where: str) -> object:
    """Return `text` as a valid value of setting `key`. Raise `ConfigError`."""
    check_key(key, where=where)
    return _check(key, text, where=where, strict=False)


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
            values[key] = _check(key, value, where=flag, strict=True)
    return values


def _check(key: str, value: object, *, where: str, strict: bool) -> object:
    kind = _TYPES[key]
    try:
        # msgspec reads the text "null" as None, which no setting's text form means.
        checked: object = (
            None if value == "null" and not strict else msgspec.convert(value, kind, strict=strict)
        )
    except msgspec.ValidationError:
        checked = None
    too_small = key == "ctx" and isinstance(checked, int) and 0 < checked < _MIN_CTX
    if checked is None or too_small:
        shown = clean_line(str(value), max_chars=60)
        raise ConfigError(f"{where}: {key} must be {_rule(key)}, not {shown!r}.")
    return checked


def _rule(key: str) -> str:
    kind = _TYPES[key]
    for candidate in (kind, *getattr(kind, "__args__", ())):
        for extra in getattr(candidate, "__metadata__", ()):
            if isinstance(extra, Meta) and extra.description:
                return extra.description
    raise AssertionError(key)  # every field above has a description; the tests walk them all


def _toml_position(path: Path, message: str) -> str:
    found = re.search(r"\(at line (\d+), column (\d+)\)", message)
    return f"{path}:{found[1]}:{found[2]}" if found else str(path)


def _line_of(key: str, text: str) -> int:
    pattern = re.compile(rf"""^\s*\[*\s*["']?{re.escape(key)}["']?\s*[].=]""")
    return next((n for n, line in enumerate(text.splitlines(), start=1) if pattern.match(line)), 1)
