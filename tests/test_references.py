from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeapp.errors import UsageError
from edgeapp.references import CatalogName, HubRef, LocalPath, Reference, parse


def read(text: str, *existing: str) -> Reference:
    return parse(text, exists=lambda path: str(path) in existing, catalog={"demo", "gpt-oss-20b"})


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("hf:org/repo", HubRef(repo="org/repo")),
        ("hf:org/repo:Q4_K_M", HubRef(repo="org/repo", quant="Q4_K_M")),
        ("org/repo-GGUF:UD-Q4_K_XL", HubRef(repo="org/repo-GGUF", quant="UD-Q4_K_XL")),
        ("Qwen/Qwen3-30B-A3B-GGUF", HubRef(repo="Qwen/Qwen3-30B-A3B-GGUF")),
        ("ibm-granite/granite-4.0-h-tiny-GGUF", HubRef(repo="ibm-granite/granite-4.0-h-tiny-GGUF")),
        ("demo", CatalogName(name="demo")),
        ("gpt-oss-2b", CatalogName(name="gpt-oss-2b")),
        ("model.gguf", LocalPath(path=Path("model.gguf"))),
        ("MODEL.GGUF", LocalPath(path=Path("MODEL.GGUF"))),
        ("./demo", LocalPath(path=Path("demo"))),
        ("../x", LocalPath(path=Path("../x"))),
        ("/models/x", LocalPath(path=Path("/models/x"))),
        ("~/x.gguf", LocalPath(path=Path.home() / "x.gguf")),
        ("مدل\u200cها.gguf", LocalPath(path=Path("مدل\u200cها.gguf"))),
    ],
)
def test_references_are_told_apart(text: str, reference: Reference) -> None:
    assert read(text) == reference


def test_an_existing_path_wins_over_a_repository_name() -> None:
    assert read("org/repo", "org/repo") == LocalPath(path=Path("org/repo"))


def test_hf_in_front_always_means_the_hub() -> None:
    assert read("hf:org/repo", "hf:org/repo", "org/repo") == HubRef(repo="org/repo")


def test_a_catalog_name_wins_over_a_folder_of_that_name() -> None:
    assert read("demo", "demo") == CatalogName(name="demo")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "hf:",
        "hf:org",
        "hf:org/repo/more",
        "hf:org/../repo",
        "hf:../repo",
        "hf:/etc/passwd",
        "hf:org/repo:",
        "hf:org/repo:a/b",
        "hf:org/re--po",
        "hf:org/re..po",
        "hf:org/repo.",
        "hf:-org/repo",
        "hf:org/repo:..",
        "org/repo?x=1",
        "org/repo#main",
        "org\\repo",
        "..\\..\\windows",
        "https://huggingface.co/org/repo",
        "file:///etc/passwd",
        "FILE:/etc/passwd",
        "s3://bucket/x.gguf",
        "org/repo\n",
        "org/\x1b[2Jrepo",
        "org/re\u202epo",
        "x\x00.gguf",
        "org/" + "r" * 100,
        "x" * 5000,
        "two words",
    ],
)
def test_what_can_be_none_of_the_three_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(text)
    assert caught.value.message.isprintable()


@given(st.text(max_size=80))
def test_no_text_becomes_a_repository_that_leaves_its_place(text: str) -> None:
    try:
        reference = read(text)
    except UsageError:
        return
    if isinstance(reference, HubRef):
        assert reference.repo.count("/") == 1
        assert ".." not in str(reference)
        assert str(reference).isascii()
        assert str(reference).isprintable()
