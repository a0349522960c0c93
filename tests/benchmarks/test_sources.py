"""What a build of llama.cpp's programs reads stays in the trimmed sources, the rest does not."""

from __future__ import annotations

import io
import tarfile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pytest

from benchmarks.gpu.sources import is_needed, unpack

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "path",
    [
        "CMakeLists.txt",
        "ggml/src/ggml.c",
        "ggml/src/ggml-cuda/fattn.cu",
        "ggml/src/ggml-cpu/arch/x86/quants.c",
        "src/models/qwen3moe.cpp",
        "tools/server/server.cpp",
        "common/fit.cpp",
    ],
)
def test_a_build_keeps_its_sources(path: str) -> None:
    assert is_needed(PurePosixPath(path))


@pytest.mark.parametrize(
    "path", ["models/ggml-vocab-bert-bge.gguf", "ggml/src/ggml-vulkan/ggml-vulkan.cpp", "docs/build.md"]
)
def test_the_rest_is_left_out(path: str) -> None:
    assert not is_needed(PurePosixPath(path))


def test_an_sdist_is_trimmed_on_the_way(tmp_path: Path) -> None:
    sdist = tmp_path / "sdist.tar.gz"
    with tarfile.open(sdist, "w:gz") as archive:
        for name in ("CMakeLists.txt", "src/llama.cpp", "docs/build.md"):
            member = tarfile.TarInfo(f"llama_cpp_python-0/vendor/llama.cpp/{name}")
            member.size = 4
            archive.addfile(member, io.BytesIO(b"text"))
    root = unpack(sdist, tmp_path)
    kept = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    assert kept == ["CMakeLists.txt", "src/llama.cpp"]
