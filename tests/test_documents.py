"""The documents say what is true: commands as the program prints them, every module named in the tree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgeapp import __version__
from edgeapp.config import KEYS
from tests.command_reference import render

ROOT = Path(__file__).resolve().parent.parent


def test_the_command_reference_is_the_programs_own_help() -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == render(), "run `make docs`"


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
