"""Build the llama-cpp-python wheel for this machine, or take it from the per-user cache.

    python packaging/engine/engine_wheel.py [--engine auto|cpu|cuda]     prints the wheel's path

A cold build takes about five minutes on two cores; the next checkout on the machine takes seconds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

import build_log
import failure
import flavour
import sdist
import store
from failure import SetupError


def ensure(chosen: flavour.Flavour, version: str) -> Path:
    """Return the wheel of `version` in the flavour `chosen`, built now if it is not in the cache."""
    key = chosen.key(version)
    home = store.root() / key
    with store.locked(key):
        return _find(home) or _build(chosen, version, home)


def _find(home: Path) -> Path | None:
    return next(iter(sorted(home.glob("*.whl"))), None)


def _build(chosen: flavour.Flavour, version: str, home: Path) -> Path:
    _require_compiler()
    source = sdist.fetch(version)
    print(
        f"Building the engine for {chosen.name.upper()}, because {chosen.reason}.\n"
        f"This happens once per machine and takes {_estimate(chosen)}.",
        file=sys.stderr,
    )
    log_file = home / "build.log"
    with store.workshop() as folder, tempfile.TemporaryDirectory() as scratch:
        build_log.run(
            _pip_wheel(source, folder),
            label="Building the engine",
            log_file=log_file,
            env=_environment(chosen, Path(scratch)),
            hint=_hint(chosen),
        )
        wheel = _find(folder)
        if wheel is None:
            raise SetupError(f"The build ended without a wheel; its log is {log_file}.")
        return store.place(wheel, home / wheel.name)


def _pip_wheel(source: Path, folder: Path) -> list[str | Path]:
    # pip's cache is left out: it would keep a second copy under a name that ignores the flavour.
    options = ["--disable-pip-version-check", "wheel", "-v", "--no-cache-dir", "--no-deps"]
    return [sys.executable, "-m", "pip", *options, "--wheel-dir", folder, source]


def _environment(chosen: flavour.Flavour, scratch: Path) -> dict[str, str]:
    # CMAKE_ARGS is split at white space, which a checkout's path may contain; a scratch folder's does not.
    batched = shutil.copy(flavour.BATCHED_CMAKE, scratch)
    arguments = [*chosen.cmake_args, f"-DCMAKE_PROJECT_INCLUDE={batched}"]
    return os.environ | {"CMAKE_ARGS": " ".join(arguments)}


def _estimate(chosen: flavour.Flavour) -> str:
    core_minutes = 10 if chosen.name == "cpu" else 65  # measured; CUDA for one architecture is extrapolated
    cores = len(os.sched_getaffinity(0))
    return f"about {max(core_minutes // cores, 1)} minutes on {cores} cores"


def _require_compiler() -> None:
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise SetupError(
            "Building the engine needs a C++ compiler, which this machine does not have.",
            hint="sudo apt-get install -y build-essential   or   sudo dnf install -y gcc-c++",
        )


def _hint(chosen: flavour.Flavour) -> str:
    if chosen.name == "cuda":
        return "make run ENGINE=cpu builds without CUDA"
    return "the last lines above name the cause; call make again when it is fixed"


def _main() -> None:
    parser = argparse.ArgumentParser(description="Build or find the engine wheel and print its path.")
    parser.add_argument("--engine", choices=("auto", "cpu", "cuda"), default="auto")
    wanted = parser.parse_args().engine
    print(ensure(flavour.choose(wanted), sdist.pinned_version()))


if __name__ == "__main__":
    failure.run(_main)
