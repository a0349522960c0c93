"""Where edgeapp keeps its things. Knows folder names, never their contents.

`EDGEAPP_HOME` moves everything below one folder, which is how tests and portable installs stay apart
from the user's own files; otherwise the platform's usual locations are used.
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

_APP = "edgeapp"
_PACKAGE = Path(__file__).resolve().parent


def _home() -> Path | None:
    home = os.environ.get("EDGEAPP_HOME")
    return Path(home).expanduser().absolute() if home else None


def config_file() -> Path:
    home = _home()
    folder = home or platformdirs.user_config_path(_APP)
    return folder / "config.toml"


def models_dir() -> Path:
    home = _home()
    return (home or platformdirs.user_data_path(_APP)) / "models"


def history_file() -> Path:
    """The chat history; its backups stand beside it."""
    home = _home()
    return (home or platformdirs.user_data_path(_APP)) / "history" / "history.db"


def cache_dir() -> Path:
    home = _home()
    return home / "cache" if home else platformdirs.user_cache_path(_APP)


def log_dir() -> Path:
    home = _home()
    return home / "log" if home else platformdirs.user_log_path(_APP)


def runtime_dir() -> Path:
    """Where running engines say what they are doing; nothing here is worth keeping after a reboot."""
    home = _home()
    return (home or platformdirs.user_state_path(_APP)) / "running"


def data_dir() -> Path:
    """The read-only `models/` data that ships with edgeapp: beside the package, else the source tree's."""
    inside = _PACKAGE / "models"
    return inside if inside.is_dir() else _PACKAGE.parent / "models"


def make_private(folder: Path) -> Path:
    """Create `folder`, readable by the user alone, and missing parents with usual permissions; return it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder
