"""What llama.cpp's converter needs: its sources, and a Python with torch and transformers.

Both are found where the user says, else made once in the cache folder. The sources are those that the engine
was built from. Knows nothing of checkpoints.

    EDGEAPP_LLAMA_CPP       folder of llama.cpp's sources
    EDGEAPP_BRIDGE_PYTHON   Python that has torch, transformers and sentencepiece
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from edgeapp import durable, paths
from edgeapp.cleantext import clean_line
from edgeapp.errors import ConfigError, DownloadError
from edgeapp.hub import is_offline
from edgeapp_converters.events import StageProgress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgeapp_converters.events import Report

SOURCES_VARIABLE = "EDGEAPP_LLAMA_CPP"
PYTHON_VARIABLE = "EDGEAPP_BRIDGE_PYTHON"
REQUIREMENTS = (
    *("torch==2.13.0", "transformers==5.24.0", "numpy>=2.2.6,<3", "sentencepiece>=0.2,<0.3"),
    *("protobuf>=4.21", "tqdm>=4.27", "pyyaml>=5.1", "jinja2>=3.1.6"),
)
"""llama.cpp, requirements/ and gguf-py/pyproject.toml; torch and transformers as in our recorded oracles."""
_PACKAGE = "llama-cpp-python"
_SCRIPT = "convert_hf_to_gguf.py"
_PARTS = (_SCRIPT, "LICENSE", "conversion/", "gguf-py/gguf/")
_STAMP = "edgeapp-bridge.txt"


@dataclass(frozen=True, kw_only=True)
class BridgeEnvironment:
    """Where the converter and its Python are."""

    python: Path
    sources: Path


def bridge_folder() -> Path:
    return paths.cache_dir() / "bridge"


def engine_version() -> str:
    return importlib.metadata.version(_PACKAGE)


def find_environment(*, offline: bool, report: Report) -> BridgeEnvironment:
    """Return the environment, making what is missing.

    Raise `ConfigError` when a variable names what is not there, and `DownloadError` when something is
    missing and cannot be downloaded.
    """
    sources, python = _named_sources(), _named_python()
    with _locked():
        return BridgeEnvironment(
            sources=sources or _cached_sources(offline=offline, report=report),
            python=python or _cached_python(offline=offline, report=report),
        )


def _named_sources() -> Path | None:
    named = os.environ.get(SOURCES_VARIABLE)
    if not named:
        return None
    folder = Path(named).expanduser().absolute()
    if not (folder / _SCRIPT).is_file():
        raise ConfigError(
            f"{SOURCES_VARIABLE} is {_shown(folder)}, where there is no {_SCRIPT}.",
            hint="It names the folder of llama.cpp's sources.",
        )
    return folder


def _named_python() -> Path | None:
    named = os.environ.get(PYTHON_VARIABLE)
    if not named:
        return None
    python = Path(named).expanduser().absolute()
    if not (python.is_file() and os.access(python, os.X_OK)):
        raise ConfigError(
            f"{PYTHON_VARIABLE} is {_shown(python)}, which is no program.",
            hint="It names a Python that has torch, transformers and sentencepiece.",
        )
    return python


# Sources -------------------------------------------------------------------------------------------------


def _cached_sources(*, offline: bool, report: Report) -> Path:
    folder = bridge_folder() / f"llama.cpp-{engine_version()}"
    if not (folder / _SCRIPT).is_file():
        with tempfile.TemporaryDirectory(dir=bridge_folder(), prefix=".unpacking-") as scratch:
            archive = _engine_archive()
            if not archive.is_file():
                _require_online("llama.cpp's converter", SOURCES_VARIABLE, offline=offline)
                archive = _download(Path(scratch), report=report)
            unpacked = Path(scratch) / "llama.cpp"
            unpack(archive, unpacked)
            shutil.rmtree(folder, ignore_errors=True)
            durable.move(unpacked, folder)
    return folder


def _engine_archive() -> Path:
    """Where the scripts that build the engine keep its source (packaging/engine/sdist.py)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "edgeapp" / "engine" / "sdist" / _archive_name()


def _archive_name() -> str:
    return f"{_PACKAGE.replace('-', '_')}-{engine_version()}.tar.gz"


def _download(scratch: Path, *, report: Report) -> Path:
    wanted = f"{_PACKAGE}=={engine_version()}"
    step = partial(_step, report, "the engine's sources")
    step(0)
    options = ["download", "--no-deps", "--no-binary", _PACKAGE, "--dest", str(scratch)]
    _run([sys.executable, "-m", "pip", *_QUIET, *options, wanted], what="The engine's sources")
    step(1)
    return scratch / _archive_name()


def unpack(archive: Path, folder: Path) -> None:
    """Write the converter's files in llama-cpp-python's source `archive` to `folder`: plain files only.

    Raise `DownloadError` when the converter is not in it.
    """
    try:
        with tarfile.open(archive) as packed:
            for member in packed:
                name = _converter_file(member.name)
                if name is not None and member.isreg() and (content := packed.extractfile(member)):
                    target = folder / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(content.read())
    except (OSError, EOFError, tarfile.TarError) as problem:
        raise DownloadError(
            f"{_shown(archive)} cannot be unpacked: {clean_line(str(problem), max_chars=200)}.",
            hint="Delete it, and it is downloaded again.",
        ) from problem
    if not (folder / _SCRIPT).is_file():
        raise DownloadError(f"{_shown(archive)} holds no {_SCRIPT}.", hint=f"Set {SOURCES_VARIABLE}.")


def _converter_file(name: str) -> str | None:
    """The path inside llama.cpp of an archive's member, if it is one of those that are needed."""
    _, _, inside = name.partition("/vendor/llama.cpp/")
    if not inside.startswith(_PARTS) or ".." in PurePosixPath(inside).parts:
        return None
    return inside


# Python --------------------------------------------------------------------------------------------------


def _cached_python(*, offline: bool, report: Report) -> Path:
    key = hashlib.sha256("\n".join((sys.version, *REQUIREMENTS)).encode()).hexdigest()[:12]
    folder = bridge_folder() / f"python-{key}"
    python = folder / "bin" / "python"
    if not (folder / _STAMP).is_file():
        _require_online("Torch, which llama.cpp's converter needs,", PYTHON_VARIABLE, offline=offline)
        step = partial(_step, report, "torch and transformers, once")
        step(0)
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)], what="A Python environment")
        _run([str(python), "-m", "pip", *_QUIET, "install", *REQUIREMENTS], what="Torch and transformers")
        durable.write(folder / _STAMP, "\n".join(REQUIREMENTS).encode())
        step(1)
    return python


# Both ----------------------------------------------------------------------------------------------------

_QUIET = ("--disable-pip-version-check", "-q")


def _run(command: Sequence[str], *, what: str) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode != 0:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        reason = clean_line(said[-1], max_chars=300) if said else f"status {done.returncode}"
        raise DownloadError(
            f"{what} could not be installed for llama.cpp's converter: {reason}",
            hint=f"Check the network and pip's settings, or set {PYTHON_VARIABLE} and {SOURCES_VARIABLE}.",
        )


def _require_online(what: str, variable: str, *, offline: bool) -> None:
    if is_offline(offline=offline):
        raise DownloadError(
            f"{what} is not on this machine and downloads are switched off.",
            hint=f"Run it once online, or set {variable}.",
        )


def _step(report: Report, label: str, done: int) -> None:
    report(StageProgress(stage="downloading", done=done, total=1, unit="steps", label=label))


@contextmanager
def _locked() -> Iterator[None]:
    """Let one process at a time make things here."""
    with (paths.make_private(bridge_folder()) / "making.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _shown(path: Path) -> str:
    return clean_line(str(path), max_chars=300)
