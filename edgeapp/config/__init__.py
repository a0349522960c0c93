"""Settings: what the user wants, from flags, the environment and `config.toml`, checked once.

A setting has one name everywhere: `temp` is `--temp`, `EDGEAPP_TEMP` and `temp = …` in the file.
Flags beat the environment, the environment beats the file, the file beats the defaults. Knows no model
and no hardware: a `None` or a 0 is decided where those are known.
"""

from edgeapp.config.checking import check_key, parse, rule
from edgeapp.config.layers import (
    ResolvedSettings,
    Source,
    load_settings,
    read_file,
    read_text,
    resolve_settings,
)
from edgeapp.config.settings import KEYS, Settings

__all__ = [
    "KEYS",
    "ResolvedSettings",
    "Settings",
    "Source",
    "check_key",
    "load_settings",
    "parse",
    "read_file",
    "read_text",
    "resolve_settings",
    "rule",
]
