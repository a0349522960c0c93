from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from edgeapp import paths
from edgeapp.placement.plan import PlacementPlan
from edgeapp.runtime.loading import engine_has_cuda, load_request

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_request_carries_out_the_plan(tmp_path: Path) -> None:
    plan = PlacementPlan(
        n_ctx=4096,
        n_threads=3,
        n_gpu_layers=999,
        cpu_experts=True,
        use_mmap=False,
        cache_ram_bytes=1 << 20,
        reason="why",
    )
    request = load_request(plan, tmp_path / "m.gguf", n_expert_used=2, draft_path=tmp_path / "d.gguf")
    assert request.path == str(tmp_path / "m.gguf")
    assert (request.n_ctx, request.n_threads, request.n_gpu_layers) == (4096, 3, 999)
    assert (request.cpu_experts, request.use_mmap) == (True, False)
    assert request.cache_ram_bytes == 1 << 20
    assert (request.n_expert_used, request.draft_path) == (2, str(tmp_path / "d.gguf"))
    assert request.prefix_folder == str(paths.cache_dir() / "prefixes")


def test_a_gpu_counts_only_when_the_engine_was_built_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "llama_cpp" / "lib"
    library.mkdir(parents=True)
    (library.parent / "__init__.py").write_text("raise AssertionError('imported')")
    (library / "libggml-cpu.so").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "llama_cpp", raising=False)
    assert not engine_has_cuda()
    (library / "libggml-cuda.so").touch()
    assert engine_has_cuda()
