"""Put together what a machine without network needs besides this repository.

    python -m benchmarks.gpu.packing SDIST FOLDER

`FOLDER` gets the trimmed sources (7 MB) and `site`, the pure Python packages that `edgeapp plan` and the
engine import, llama-cpp-python's without its libraries: those are built there. Compiled packages depend on
the machine's Python; README.md says how to take them along.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from pathlib import Path

from benchmarks.gpu.sources import trim

PURE = ("llama-cpp-python", "click", "jinja2", "nvidia-ml-py", "platformdirs", "tomlkit", "typing-extensions")
COMPILED = ("markupsafe", "msgspec", "psutil")
_NOT_PACKED = frozenset({".so", ".pyc", ".a"})


def pack(sdist: Path, folder: Path) -> Path:
    """Fill `folder` and return it."""
    site = folder / "site"
    site.mkdir(parents=True, exist_ok=True)
    for name in PURE:
        _copy(name, site)
    trim(sdist, folder / "sources.tar.gz")
    return folder


def _copy(package: str, site: Path) -> None:
    for file in importlib.metadata.files(package) or ():
        is_inside = file.parts[0] != ".." and file.parts[0] not in {"bin", "include", "lib"}
        if is_inside and not _NOT_PACKED & set(file.suffixes):
            target = site / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(str(file.locate()), target)


def main() -> None:
    folder = pack(Path(sys.argv[1]), Path(sys.argv[2]))
    n_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {n_bytes / 2**20:.1f} MiB; wheels to add: {', '.join(COMPILED)}")


if __name__ == "__main__":
    main()
