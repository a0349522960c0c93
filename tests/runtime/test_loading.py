from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from edgeapp import paths
from edgeapp.placement.plan import MemoryUse, PlacementPlan, Prediction, TensorOverride
from edgeapp.runtime.loading import engine_has_cuda, load_request

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

_NOTHING = MemoryUse(weights=0, kv=0, compute=0, total=0, budget=0)


def test_the_request_carries_out_the_plan(tmp_path: Path) -> None:
    plan = PlacementPlan(
        n_ctx=4096,
        n_gpu_layers=49,
        tensor_overrides=(TensorOverride(pattern="exps", buffer="CPU"),),
        n_ubatch=1024,
        n_batch=1024,
        kv_type="q8_0",
        load_mode="none",
        flash_attn="on",
        n_threads=3,
        n_parallel=2,
        device="CUDA0",
        cpu_expert_layers=(46, 47),
        cpu_layers=(),
        cache_ram_bytes=1 << 20,
        vram=_NOTHING,
        ram=_NOTHING,
        paged_bytes=0,
        repack=False,
        predicted=Prediction(decode_tps=1, prefill_tps=1, ttft_s=1, request_s=1),
        bottleneck="",
        reasons=("why",),
    )
    request = load_request(plan, tmp_path / "m.gguf", n_expert_used=2, draft_path=tmp_path / "d.gguf")
    assert request.path == str(tmp_path / "m.gguf")
    assert (request.n_ctx, request.n_threads, request.n_gpu_layers) == (4096, 3, 49)
    assert [(one.pattern, one.buffer) for one in request.tensor_overrides] == [("exps", "CPU")]
    assert (request.n_ubatch, request.kv_type, request.load_mode) == (1024, "q8_0", "none")
    assert (request.device, request.n_parallel, request.repack) == ("CUDA0", 2, False)
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
