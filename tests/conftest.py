"""Keeps every test away from the user's files and the network, and hands out the two real models."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.fake_gpu import FakeGpu, fake_gpu
from tests.tiny_moe import demo_model_path, write_tiny_moe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def isolated_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a home of its own, no settings in the environment and no network for the hub."""
    for name in [name for name in os.environ if name.startswith(("EDGEAPP_", "HF_"))]:
        monkeypatch.delenv(name)
    home = tmp_path / "edgeapp-home"
    monkeypatch.setenv("EDGEAPP_HOME", str(home))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return home


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The embedded demo: SmolLM2-135M-Instruct, as its package carries it."""
    return demo_model_path()


@pytest.fixture(scope="session")
def tiny_moe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded MoE of about 1 MB with a real tokenizer; it talks nonsense, fast."""
    return write_tiny_moe(tmp_path_factory.mktemp("models") / "tiny-moe.gguf")


@pytest.fixture(name="fake_gpu")
def one_fake_gpu(isolated_user: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    """A GPU of 1 GiB, named "RPC0", that every engine finds which the test starts."""
    with fake_gpu(total_mib=1024) as gpu:
        for name, value in gpu.environment.items():
            monkeypatch.setenv(name, value)
        yield gpu
