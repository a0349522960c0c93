"""llama.cpp's sources for a machine without network: what a build of the programs needs, and nothing else.

    python -m benchmarks.gpu.sources SDIST OUT.tar.gz

The sdist of llama-cpp-python is 74 MB, most of it vocabularies for tests, pictures, and backends for other
devices.
"""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = "llama.cpp"
_INSIDE = ("vendor", "llama.cpp")
_FOLDERS = frozenset({"cmake", "common", "ggml", "include", "licenses", "scripts", "src", "tools", "vendor"})
_FILES = frozenset({"CMakeLists.txt", "LICENSE"})
_BACKENDS = frozenset({"ggml-cpu", "ggml-cuda", "ggml-rpc"})
_UNUSED_SUFFIXES = frozenset({".gguf", ".gif", ".jpg", ".md", ".mp3", ".png", ".svg", ".wav"})


def trim(sdist: Path, out: Path) -> Path:
    """Write the needed part of `sdist` to `out` and return it."""
    part = out.with_name(out.name + ".part")
    with tarfile.open(sdist) as source, tarfile.open(part, "w:gz") as target:
        for member, name in _needed(source):
            file = source.extractfile(member)
            kept = tarfile.TarInfo(name)
            kept.size, kept.mode = member.size, member.mode
            target.addfile(kept, file)
    part.replace(out)
    return out


def _needed(source: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, str]]:
    for member in source:
        path = PurePosixPath(member.name)
        inside = path.parts[3:] if path.parts[1:3] == _INSIDE else ()
        if member.isfile() and inside and is_needed(PurePosixPath(*inside)):
            yield member, str(PurePosixPath(ROOT, *inside))


def is_needed(path: PurePosixPath) -> bool:
    """Tell whether a build of the programs reads `path`, which is relative to llama.cpp's root."""
    first, *rest = path.parts
    if not rest:
        return first in _FILES
    if first not in _FOLDERS or path.suffix in _UNUSED_SUFFIXES:
        return False
    is_backend = path.parts[:2] == ("ggml", "src") and len(path.parts) > 3
    return not is_backend or path.parts[2] in _BACKENDS


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack what `trim` wrote, or a whole sdist, into `folder` and return llama.cpp's root."""
    root = folder / ROOT
    if (root / "CMakeLists.txt").exists():
        return root
    with tarfile.open(archive) as source:
        names = source.getnames()
    trimmed = archive
    if not any(PurePosixPath(name).parts[:1] == (ROOT,) for name in names):
        trimmed = trim(archive, folder / "sources.tar.gz")
    with tarfile.open(trimmed) as source:
        source.extractall(folder, filter="data")
    return root


def main() -> None:
    out = trim(Path(sys.argv[1]), Path(sys.argv[2]))
    print(f"{out}: {out.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
