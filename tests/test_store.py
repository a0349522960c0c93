from __future__ import annotations

import hashlib
import stat
from typing import TYPE_CHECKING

import msgspec
import pytest

from edgeapp import paths, store
from edgeapp.errors import ModelUnreadable
from edgeapp.store import Manifest, StoredFile, StoredModel

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEAPP_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def add(
    repo: str = "org/repo", quant: str = "Q4_K_M", *contents: bytes, added: str = "2026-01-01T00:00:00+00:00"
) -> StoredModel:
    """Store a model as the hub module does."""
    contents = contents or (b"GGUF " + quant.encode() + repo.encode(),)
    sha256s = [hashlib.sha256(content).hexdigest() for content in contents]
    folder = store.folder_for(repo=repo, quant=quant, sha256s=sha256s)
    files = []
    for n, (content, sha256) in enumerate(zip(contents, sha256s, strict=True), start=1):
        name = f"m-{n:05}-of-{len(contents):05}.gguf"
        store.partial_path(sha256).write_bytes(content)
        store.place(store.partial_path(sha256), folder=folder, name=name)
        files.append(StoredFile(name=name, size_bytes=len(content), sha256=sha256))
    manifest = Manifest(
        repo=repo, quant=quant, commit="c" * 40, licence="mit", files=tuple(files), added=added
    )
    return store.finish(folder, manifest)


def test_a_finished_model_is_installed_read_only_and_read_back_equal() -> None:
    model = add("org/repo", "Q8_0", b"one", b"two")
    assert store.installed() == (model,)
    assert model.name == "org/repo:Q8_0"
    assert model.path.name == "m-00001-of-00002.gguf"
    assert model.path.read_bytes() == b"one"
    assert model.size_bytes == 6
    assert stat.S_IMODE(model.path.stat().st_mode) == 0o444


def test_a_folder_without_manifest_is_not_installed() -> None:
    model = add()
    (model.folder / "manifest.json").unlink()
    assert store.installed() == ()


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[1]", b"\xff", b'{"repo": 1}'],
)
def test_a_damaged_manifest_is_not_installed(content: bytes) -> None:
    model = add()
    (model.folder / "manifest.json").write_bytes(content)
    assert store.installed() == ()


@pytest.mark.parametrize("name", ["../../victim.gguf", "/etc/victim.gguf", "manifest.json", "a/b.gguf"])
def test_a_manifest_that_names_files_elsewhere_is_refused(name: str) -> None:
    model = add()
    raw = msgspec.json.decode((model.folder / "manifest.json").read_bytes())
    raw["files"][0]["name"] = name
    (model.folder / "manifest.json").write_bytes(msgspec.json.encode(raw))
    assert store.installed() == ()


def test_find_matches_repository_and_quant_in_any_case() -> None:
    model = add("Org/Repo", "Q4_K_M")
    add("Org/Other", "Q4_K_M")
    assert store.find("org/repo", quant="q4_k_m") == (model,)
    assert store.find("org/repo", quant="Q8_0") == ()


def test_find_prefers_the_quant_then_the_newest() -> None:
    q8 = add("org/repo", "Q8_0", b"q8")
    old = add("org/repo", "Q4_K_M", b"old", added="2026-01-01T00:00:00+00:00")
    new = add("org/repo", "Q4_K_M", b"new", added="2026-02-01T00:00:00+00:00")
    assert store.find("org/repo") == (new, old, q8)


def test_find_takes_a_vendor_variant_only_when_there_is_no_plain_one() -> None:
    variant = add("org/repo", "UD-Q4_K_M", b"variant")
    assert store.find("org/repo", quant="q4_k_m") == (variant,)
    plain = add("org/repo", "Q4_K_M", b"plain")
    assert store.find("org/repo", quant="Q4_K_M") == (plain,)
    assert store.find("org/repo", quant="UD-Q4_K_M") == (variant,)


def test_find_by_file_name_tells_models_of_one_quant_apart() -> None:
    single = add("org/repo", "Q4_K_M", b"x")
    add("org/repo", "Q4_K_M", b"y", b"z")
    assert store.find("org/repo", file="sub/m-00001-of-00001.gguf") == (single,)


def test_verify_finds_nothing_in_an_intact_model_and_counts_the_bytes() -> None:
    counted: list[int] = []
    model = add("org/repo", "Q8_0", b"one", b"three")
    assert store.verify(model, on_bytes=counted.append) == ()
    assert sum(counted) == 8


def test_verify_finds_a_flipped_byte_a_short_file_and_a_missing_one() -> None:
    model = add("org/repo", "Q8_0", b"one", b"two", b"three")
    first, second, third = (model.folder / file.name for file in model.manifest.files)
    for file in (first, second):
        file.chmod(0o644)
    first.write_bytes(b"onf")
    second.write_bytes(b"tw")
    third.unlink()
    damages = store.verify(model)
    assert [damage.path for damage in damages] == [first, second, third]
    assert "sha256" in damages[0].reason
    assert damages[1].reason == "has 2 bytes instead of 3"
    assert "No such file" in damages[2].reason


def test_remove_deletes_the_model_and_nothing_beside_it() -> None:
    kept = add("org/kept")
    gone = add("org/gone")
    store.remove(gone)
    assert not gone.folder.exists()
    assert store.installed() == (kept,)


def test_remove_does_not_follow_a_link_out_of_the_store(tmp_path: Path) -> None:
    model = add()
    victim = tmp_path / "victim.gguf"
    victim.write_bytes(b"mine")
    model.path.unlink()
    model.path.symlink_to(victim)
    store.remove(model)
    assert victim.read_bytes() == b"mine"


def test_remove_refuses_a_folder_outside_the_store(tmp_path: Path) -> None:
    model = add()
    outside = tmp_path / "outside"
    model.folder.rename(outside)
    with pytest.raises(ModelUnreadable, match="nothing was removed"):
        store.remove(StoredModel(folder=outside, manifest=model.manifest))
    assert (outside / "manifest.json").exists()


def test_remove_refuses_a_store_folder_that_is_a_link(tmp_path: Path) -> None:
    model = add()
    outside = tmp_path / "outside"
    model.folder.rename(outside)
    model.folder.symlink_to(outside)
    with pytest.raises(ModelUnreadable):
        store.remove(model)
    assert (outside / "manifest.json").exists()


def test_interrupted_downloads_are_counted() -> None:
    assert store.partial_bytes() == 0
    store.partial_path("a" * 64).write_bytes(b"1234")
    assert store.partial_bytes() == 4


def test_different_content_gets_a_different_folder() -> None:
    one = store.folder_for(repo="org/repo", quant="Q8_0", sha256s=["a" * 64])
    two = store.folder_for(repo="org/repo", quant="Q8_0", sha256s=["b" * 64])
    assert one.parent == two.parent == paths.models_dir()
    assert one != two
