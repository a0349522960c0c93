"""Build llama.cpp's own programs from the source our engine is made of, to measure against.

    python packaging/engine/peers.py        → .cache/peers/bin/llama-bench, llama-server, ...

Same commit, same compiler, same options as the engine, so a difference is ours and not the build's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import build_log
import failure
import flavour
import sdist
import store
from failure import SetupError

PROGRAMS = (
    "llama-bench",
    "llama-cli",
    "llama-completion",
    "llama-fit-params",
    "llama-imatrix",
    "llama-perplexity",
    "llama-quantize",
    "llama-server",
)
_HOME = sdist.PROJECT / ".cache" / "peers"
_BIN = _HOME / "bin"
_STAMP = _HOME / "key"
_CMAKE_ARGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_OPENSSL=OFF",  # no downloads from inside the peers
    "-DLLAMA_USE_PREBUILT_UI=OFF",  # else the server's build fetches its web pages
)


def _main() -> None:
    version = sdist.pinned_version()
    chosen = flavour.choose("auto")
    key = chosen.key(version)
    if _is_built(key):
        print(f"The peers of this build ({key}) are in {_BIN}", file=sys.stderr)
        return
    source = sdist.fetch(version)
    with store.workshop() as folder:
        _build(source, folder, chosen)
        for program in PROGRAMS:
            store.place(folder / "build" / "bin" / program, _BIN / program)
    _STAMP.write_text(key)
    print(f"Built: {_BIN}", file=sys.stderr)


def _is_built(key: str) -> bool:
    complete = all((_BIN / program).exists() for program in PROGRAMS)
    return complete and _STAMP.exists() and _STAMP.read_text() == key


def _build(source: Path, folder: Path, chosen: flavour.Flavour) -> None:
    log_file = _HOME / "build.log"
    unpack: list[str | Path] = ["tar", "-xzf", source, "-C", folder, "--strip-components=1"]
    build_log.run(unpack, label="Unpacking the source", log_file=log_file)
    tools = _build_tools(folder)
    env = os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    tree = folder / "build"
    configure: list[str | Path] = ["cmake", "-G", "Ninja", "-S", folder / "vendor" / "llama.cpp", "-B", tree]
    configure += [*chosen.cmake_args, *_CMAKE_ARGS, f"-DCMAKE_PROJECT_INCLUDE={flavour.BATCHED_CMAKE}"]
    print(f"Building the peers for {chosen.name.upper()}, because {chosen.reason}.", file=sys.stderr)
    build_log.run(configure, label="Configuring the peers", log_file=log_file, env=env)
    compile_all: list[str | Path] = ["cmake", "--build", tree, "--target", *PROGRAMS]
    build_log.run(compile_all, label="Building the peers", log_file=log_file, env=env)


def _build_tools(folder: Path) -> str:
    """Return a folder that has cmake and ninja: the machine's own, else from PyPI for this build only."""
    if shutil.which("cmake") and shutil.which("ninja"):
        return str(Path(shutil.which("cmake") or "").parent)
    home = folder / "tools"
    venv.create(home, with_pip=True)
    command: list[str | Path] = [home / "bin" / "python", "-m", "pip", "--quiet", "install", "cmake", "ninja"]
    if subprocess.run(command, check=False).returncode != 0:
        raise SetupError(
            "cmake and ninja are not here and could not be downloaded.",
            hint="sudo apt-get install -y cmake ninja-build",
        )
    return str(home / "bin")


if __name__ == "__main__":
    failure.run(_main)
