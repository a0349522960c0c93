"""Fetch the source of llama-cpp-python, which carries the llama.cpp it was made for."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import store
from failure import SetupError

PROJECT = Path(__file__).resolve().parents[2]
_PACKAGE = "llama-cpp-python"
_MIN_PIP = (22, 3)  # what Python 3.11 came with; older ones cannot install an editable project


def pinned_version() -> str:
    """Return the exact version that pyproject.toml asks for."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    for requirement in project["dependencies"]:
        name, _, version = str(requirement).partition("==")
        if name.strip() == _PACKAGE and version:
            return version.strip()
    raise SetupError(f"pyproject.toml does not pin {_PACKAGE} to one version.")


def fetch(version: str) -> Path:
    """Return the source archive, downloaded once per user."""
    name = f"llama_cpp_python-{version}.tar.gz"
    target = store.root() / "sdist" / name
    if target.exists():
        return target
    require_pip()
    with store.locked(name):
        if target.exists():
            return target
        with store.workshop() as folder:
            print(f"Downloading {_PACKAGE} {version} (73 MiB of source)", file=sys.stderr)
            _download(version, folder)
            return store.place(folder / name, target)


def require_pip() -> None:
    """Raise `SetupError` when this environment's pip is too old."""
    version = importlib.metadata.version("pip")
    if tuple(int(part) for part in version.split(".")[:2]) < _MIN_PIP:
        wanted = ".".join(map(str, _MIN_PIP))
        raise SetupError(
            f"pip {version} is too old; {wanted} or newer is needed.",
            hint=f"{sys.executable} -m pip install --upgrade pip",
        )


def _download(version: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-qq", "download"]
    command += ["--no-deps", "--no-binary", _PACKAGE, "--dest", str(folder), f"{_PACKAGE}=={version}"]
    if subprocess.run(command, check=False).returncode != 0:
        raise SetupError(
            f"{_PACKAGE} {version} could not be downloaded.",
            hint="check the network and pip's index settings (pip config list), then call make again",
        )
