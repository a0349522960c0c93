from __future__ import annotations

import hashlib
import json
import os
import sys
from typing import TYPE_CHECKING

import pexpect
import pytest
from click.testing import CliRunner, Result

from edgeapp import store
from edgeapp.cli.models import command
from edgeapp.errors import ModelNotFound, UsageError, VerificationFailed
from tests.hub_server import Repo, gguf_like, running_hub

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEAPP_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments), catch_exceptions=False)


def add(repo: str = "org/repo", quant: str = "Q8_0", *, licence: str = "mit") -> store.StoredModel:
    content = f"GGUF {repo} {quant}".encode()
    sha256 = hashlib.sha256(content).hexdigest()
    folder = store.folder_for(repo=repo, quant=quant, sha256s=[sha256])
    store.partial_path(sha256).write_bytes(content)
    store.place(store.partial_path(sha256), folder=folder, name="m.gguf")
    file = store.StoredFile(name="m.gguf", size_bytes=len(content), sha256=sha256)
    return store.finish(
        folder,
        store.Manifest(
            repo=repo, quant=quant, commit="c" * 40, licence=licence, files=(file,), added="2026-01-01"
        ),
    )


def test_the_list_has_catalog_and_store_with_size_licence_and_state() -> None:
    add()
    for output in (invoke().output, invoke("list").output):
        lines = {line.split()[0]: line for line in output.splitlines()}
        assert lines["smollm2-135m"].split()[1:] == ["98.4", "MB", "Apache-2.0", "installed"]
        assert lines["gpt-oss-20b"].endswith("in the catalog")
        assert lines["org/repo:Q8_0"].split()[-2:] == ["mit", "installed"]


def test_the_list_as_json_says_where_each_model_is() -> None:
    model = add()
    rows = {row["name"]: row for row in json.loads(invoke("list", "--json").output)}
    assert rows["org/repo:Q8_0"]["path"] == str(model.path)
    assert rows["org/repo:Q8_0"]["installed"] is True
    assert rows["gpt-oss-20b"]["path"] is None
    assert rows["gpt-oss-20b"]["file_bytes"] == 12_100_000_000


def test_a_downloaded_catalog_model_is_listed_once_under_its_catalog_name() -> None:
    model = add("ggml-org/gpt-oss-20b-GGUF", "MXFP4")
    rows = json.loads(invoke("list", "--json").output)
    assert [row["name"] for row in rows if row["path"] == str(model.path)] == ["gpt-oss-20b"]


def test_the_list_mentions_what_interrupted_downloads_hold() -> None:
    store.partial_path("a" * 64).write_bytes(b"x" * 2_000_000)
    assert "Interrupted downloads hold 2.0 MB" in invoke("list").stderr


def test_show_describes_a_catalog_model_and_how_to_get_it() -> None:
    output = invoke("show", "qwen3-30b-a3b").output
    assert "30.50 B, 3.30 B per token" in output
    assert "edgeapp models pull qwen3-30b-a3b" in output


def test_show_as_json_describes_a_stored_model() -> None:
    model = add()
    shown = json.loads(invoke("show", "org/repo", "--json").output)
    assert shown["source"] == f"hf:org/repo@{model.manifest.commit}"


def test_a_licence_from_the_hub_cannot_send_control_characters_to_the_terminal() -> None:
    add(licence="mit\x1b[2J")
    assert "\x1b" not in invoke("list").output
    assert "\x1b" not in invoke("show", "org/repo").output


def test_pull_of_the_dense_demo_says_that_it_is_here() -> None:
    assert "nothing to download" in invoke("pull", "smollm2-135m").output


def test_rm_with_yes_removes_the_model_and_says_what_is_free() -> None:
    model = add()
    assert "are free again" in invoke("rm", "hf:org/repo", "--yes").output
    assert not model.folder.exists()


def test_rm_without_a_terminal_needs_yes() -> None:
    model = add()
    with pytest.raises(UsageError) as caught:
        invoke("rm", "org/repo")
    assert caught.value.hint == "--yes"
    assert model.path.exists()


def test_rm_refuses_the_dense_demo_with_a_sentence() -> None:
    with pytest.raises(UsageError, match="comes with a Python package"):
        invoke("rm", "smollm2-135m", "--yes")


def test_rm_removes_the_demo_that_was_made_here() -> None:
    made = add(store.local_repo("demo"), "moe4")
    assert "are free again" in invoke("rm", "demo", "--yes").output
    assert not made.folder.exists()


def test_rm_refuses_a_file_of_the_user(tmp_path: Path) -> None:
    file = tmp_path / "mine.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(UsageError, match="your own file"):
        invoke("rm", str(file), "--yes")
    assert file.exists()


def test_rm_does_not_guess_between_two_quants() -> None:
    add(quant="Q8_0")
    add(quant="Q4_K_M")
    with pytest.raises(UsageError, match=r"could mean org/repo:Q4_K_M, org/repo:Q8_0"):
        invoke("rm", "org/repo", "--yes")
    assert len(store.installed()) == 2


def test_rm_of_what_was_never_downloaded_is_an_error() -> None:
    with pytest.raises(ModelNotFound, match="is not in the store"):
        invoke("rm", "gpt-oss-20b", "--yes")


def test_verify_reports_every_model_and_fails_when_one_is_damaged() -> None:
    good, bad = add("org/good"), add("org/bad")
    bad.path.chmod(0o644)
    bad.path.write_bytes(b"x" * bad.size_bytes)
    result = CliRunner().invoke(command, ["verify"])
    assert isinstance(result.exception, VerificationFailed)
    assert str(bad.path) in result.exception.message
    assert "edgeapp models pull org/bad:Q8_0" in result.exception.hint
    assert result.output.splitlines() == [
        f"damaged  {bad.name}  0.0 MB",
        f"ok       {good.name}  0.0 MB",
    ]
    assert invoke("verify", "org/good").exit_code == 0


def test_verify_as_json_tells_the_reason() -> None:
    bad = add()
    bad.path.chmod(0o644)
    bad.path.write_bytes(b"short")
    result = CliRunner().invoke(command, ["verify", "--json"])
    (verdict,) = json.loads(result.output)
    assert verdict["ok"] is False
    assert verdict["damages"][0]["reason"] == f"has 5 bytes instead of {bad.size_bytes}"


def test_verify_with_nothing_to_verify_is_not_a_failure() -> None:
    assert "no downloaded model" in invoke("verify").output


@pytest.mark.parametrize("subcommand", ["", "list", "show", "pull", "rm", "verify"])
def test_every_help_shows_an_example(subcommand: str) -> None:
    output = invoke(*filter(None, [subcommand]), "--help").output
    assert "Example" in output
    assert "edgeapp models" in output


def on_a_terminal(*arguments: str, **environment: str) -> pexpect.spawn:
    return pexpect.spawn(
        sys.executable,
        ["-m", "edgeapp", "models", *arguments],
        env={**os.environ, **environment},
        dimensions=(24, 100),
        timeout=30,
        encoding="utf-8",
    )


@pytest.mark.parametrize(("answer", "removed"), [("n", False), ("y", True)])
def test_rm_asks_on_a_terminal(answer: str, removed: bool) -> None:  # noqa: FBT001 - a test parameter
    model = add()
    child = on_a_terminal("rm", "org/repo")
    child.expect("Remove org/repo:Q8_0")
    child.sendline(answer)
    child.expect(pexpect.EOF)
    child.close()
    assert model.path.exists() is not removed
    assert child.exitstatus == (0 if removed else 130)


def test_pull_draws_one_bar_on_a_terminal(home: Path) -> None:
    with running_hub() as hub:
        hub.repos["org/repo"] = Repo(files={"m-Q4_K_M.gguf": gguf_like(size_bytes=2_000_000)})
        child = on_a_terminal(
            "pull", "hf:org/repo", HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="", HF_HOME=str(home / "hf")
        )
        child.expect(pexpect.EOF)
        child.close()
    shown = str(child.before)
    assert child.exitstatus == 0, shown
    assert "█" * 30 + " 100 %" in shown
    assert shown.count("\r\n") == 3  # the bar's end, the summary, the path
