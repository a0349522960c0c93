from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp import durable

if TYPE_CHECKING:
    from pathlib import Path


def test_writing_creates_the_folder_and_leaves_no_part_file(tmp_path: Path) -> None:
    file = tmp_path / "new" / "file"
    durable.write(file, b"one")
    durable.write(file, b"two")
    assert file.read_bytes() == b"two"
    assert list(file.parent.iterdir()) == [file]


def test_a_symbolic_link_keeps_pointing_to_the_file_it_points_to(tmp_path: Path) -> None:
    real = tmp_path / "dotfiles" / "real"
    link = tmp_path / "link"
    durable.write(real, b"old")
    link.symlink_to(real)
    durable.write(link, b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
