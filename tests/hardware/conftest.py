"""An empty /proc and /sys for the tests beside this file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgeapp.hardware import system_files

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that a test fills with the files a kernel would show."""
    monkeypatch.setattr(system_files, "PROC", tmp_path / "proc")
    monkeypatch.setattr(system_files, "SYS", tmp_path / "sys")
    return tmp_path
