from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgeapp.history import open_history

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgeapp.history import Database


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "history" / "history.db"


@pytest.fixture
def database(file: Path) -> Iterator[Database]:
    with open_history(file).database as database:
        yield database
