"""The documents say what is true: commands as the program prints them, every module named in the tree."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgeapp import __version__
from edgeapp.config import KEYS

ROOT = Path(__file__).resolve().parent.parent


def test_the_command_reference_is_the_programs_own_help(tmp_path: Path) -> None:
    # In a process of its own: click keeps the help option of a command that another test has called.
    fresh = tmp_path / "cli.md"
    subprocess.run([sys.executable, "-m", "tests.command_reference", str(fresh)], cwd=ROOT, check=True)
    assert (ROOT / "docs" / "cli.md").read_text() == fresh.read_text(), "run `make docs`"


def test_the_readme_names_every_module_of_the_application() -> None:
    tree = (ROOT / "README.md").read_text()
    modules = {path.name.removesuffix(".py") for path in (ROOT / "edgeapp").iterdir()}
    named = [name for name in modules if not name.startswith((".", "_")) and name != "py.typed"]
    assert [name for name in named if not re.search(rf"\b{name}\b", tree)] == []


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/guide.md"])
def test_every_file_that_a_document_links_to_exists(name: str) -> None:
    document = ROOT / name
    links = re.findall(r"\]\(([^)#:]+)\)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_the_changelog_has_the_current_version() -> None:
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_guide_explains_every_setting() -> None:
    guide = (ROOT / "docs" / "guide.md").read_text()
    assert [key for key in KEYS if f"`{key}`" not in guide] == []
