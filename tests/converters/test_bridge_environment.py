from __future__ import annotations

import io
import sys
import tarfile
from typing import TYPE_CHECKING

import pytest

from edgeapp.errors import ConfigError, DownloadError
from edgeapp_converters import bridge_environment
from edgeapp_converters.bridge_environment import (
    PYTHON_VARIABLE,
    SOURCES_VARIABLE,
    bridge_folder,
    engine_version,
    find_environment,
    unpack,
)

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp_converters.bridge_environment import BridgeEnvironment

_TOP = "llama_cpp_python-0/vendor/llama.cpp"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache in which no engine was built yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _find() -> BridgeEnvironment:
    return find_environment(offline=True, report=lambda _: None)


def _archive(path: Path, *members: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as packed:
        for name in members:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            packed.addfile(member, io.BytesIO(name.encode()))
    return path


def test_both_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "convert_hf_to_gguf.py").touch()
    monkeypatch.setenv(SOURCES_VARIABLE, str(tmp_path))
    monkeypatch.setenv(PYTHON_VARIABLE, sys.executable)
    assert (_find().sources, str(_find().python)) == (tmp_path, sys.executable)


def test_a_named_folder_without_the_converter_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SOURCES_VARIABLE, str(tmp_path))
    with pytest.raises(ConfigError, match=f"{SOURCES_VARIABLE} is .* there is no convert_hf_to_gguf.py"):
        _find()


def test_a_named_python_that_is_no_program_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "convert_hf_to_gguf.py").touch()
    monkeypatch.setenv(SOURCES_VARIABLE, str(tmp_path))
    monkeypatch.setenv(PYTHON_VARIABLE, str(tmp_path / "convert_hf_to_gguf.py"))
    with pytest.raises(ConfigError, match=f"{PYTHON_VARIABLE} is .* is no program"):
        _find()


def test_without_sources_and_network_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, sys.executable)
    with pytest.raises(DownloadError, match="downloads are switched off") as caught:
        _find()
    assert SOURCES_VARIABLE in caught.value.hint


def test_without_torch_and_network_the_variable_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "convert_hf_to_gguf.py").touch()
    monkeypatch.setenv(SOURCES_VARIABLE, str(tmp_path))
    with pytest.raises(DownloadError, match=r"Torch.*downloads are switched off") as caught:
        _find()
    assert PYTHON_VARIABLE in caught.value.hint


def test_the_sources_of_the_engine_s_build_are_used_and_unpacked_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, sys.executable)
    packed = cache / "edgeapp" / "engine" / "sdist" / f"llama_cpp_python-{engine_version()}.tar.gz"
    _archive(packed, f"{_TOP}/convert_hf_to_gguf.py", f"{_TOP}/conversion/base.py")
    sources = _find().sources
    assert sources.parent == bridge_folder()
    assert (sources / "conversion" / "base.py").is_file()
    packed.unlink()
    assert _find().sources == sources
    assert sorted(path.name for path in bridge_folder().iterdir()) == [sources.name, "making.lock"]


def test_a_half_unpacked_folder_is_made_anew(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, sys.executable)
    packed = cache / "edgeapp" / "engine" / "sdist" / f"llama_cpp_python-{engine_version()}.tar.gz"
    _archive(packed, f"{_TOP}/convert_hf_to_gguf.py")
    (bridge_folder() / f"llama.cpp-{engine_version()}" / "conversion").mkdir(parents=True)
    assert (_find().sources / "convert_hf_to_gguf.py").is_file()


def test_only_the_converter_is_unpacked_and_nothing_outside_the_folder(tmp_path: Path) -> None:
    packed = _archive(
        tmp_path / "a.tar.gz",
        *(f"{_TOP}/convert_hf_to_gguf.py", f"{_TOP}/gguf-py/gguf/constants.py", f"{_TOP}/src/llama.cpp"),
        *(f"{_TOP}/conversion/../../evil.py", f"{_TOP}/tests/conversion/a.py", "/vendor/other.py"),
    )
    unpack(packed, tmp_path / "out" / "llama.cpp")
    found = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert found == [
        "a.tar.gz",
        "out/llama.cpp/convert_hf_to_gguf.py",
        "out/llama.cpp/gguf-py/gguf/constants.py",
    ]


def test_links_in_an_archive_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as packed:
        packed.addfile(tarfile.TarInfo(f"{_TOP}/convert_hf_to_gguf.py"))
        link = tarfile.TarInfo(f"{_TOP}/conversion/base.py")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        packed.addfile(link)
    unpack(path, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["convert_hf_to_gguf.py"]


def test_a_broken_archive_is_told_with_a_way_out(tmp_path: Path) -> None:
    whole = _archive(tmp_path / "a.tar.gz", f"{_TOP}/convert_hf_to_gguf.py").read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(whole[:40])
    with pytest.raises(DownloadError, match="cannot be unpacked") as caught:
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")
    assert "Delete it" in caught.value.hint


def test_an_archive_without_the_converter_is_refused(tmp_path: Path) -> None:
    packed = _archive(tmp_path / "a.tar.gz", f"{_TOP}/conversion/base.py")
    with pytest.raises(DownloadError, match=r"holds no convert_hf_to_gguf\.py"):
        unpack(packed, tmp_path / "out")


def test_an_installation_that_fails_is_told_by_its_last_line() -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('first\\nNo matching distribution\\n')"]
    with pytest.raises(DownloadError, match=r"Torch could not be installed.*: No matching") as caught:
        bridge_environment._run(command, what="Torch")
    assert PYTHON_VARIABLE in caught.value.hint
