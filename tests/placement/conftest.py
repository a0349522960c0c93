"""The header-only models, and llama.cpp's own account of what a placement of them takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.model_shapes import SHAPES, write_shape
from tests.native.memory_breakdown import build_shim

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def shape_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every shape's file, by name."""
    folder = tmp_path_factory.mktemp("shapes")
    return {name: write_shape(name, folder / f"{name}.gguf") for name in SHAPES}


@pytest.fixture(scope="session")
def breakdown_shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shim(tmp_path_factory.mktemp("native"))
