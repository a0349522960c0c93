"""The built package, installed where the source tree cannot be seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path, PurePosixPath

import pytest

_PROJECT = Path(__file__).resolve().parents[2]
_OURS = {"edgeapp", "edgeapp_converters"}


def build_wheel(source: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel"]
    command += ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(_PROJECT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(folder)]
    done = subprocess.run(command, cwd=_PROJECT, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,) = folder.glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bin folder of an environment that has the wheel.

    The libraries come from the environment of the tests through a `.pth` file. Python does not read the
    `.pth` files in there in turn, so an editable installation of the source tree stays out of sight.
    """
    home = tmp_path_factory.mktemp("clean")
    venv.create(home)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    libraries = sysconfig.get_path("purelib")
    (home / "lib" / version / "site-packages" / "libraries.pth").write_text(f"{libraries}\n")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(home)]
    command += ["install", "--no-deps", "--no-index", "--force-reinstall", "--ignore-installed", str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return home / "bin"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        "PATH": os.defpath,
        "HOME": str(tmp_path),
        "EDGEAPP_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
        "LANG": "C.UTF-8",
    }


def from_root(environment: dict[str, str], *command: str | Path) -> str:
    done = subprocess.run(
        command,
        cwd="/",
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def names_in_wheel(wheel: Path) -> list[PurePosixPath]:
    with zipfile.ZipFile(wheel) as archive:
        return [PurePosixPath(name) for name in archive.namelist()]


def names_in_sdist(sdist: Path) -> list[PurePosixPath]:
    with tarfile.open(sdist) as archive:
        return [PurePosixPath(*PurePosixPath(name).parts[1:]) for name in archive.getnames()]


def test_the_wheel_puts_nothing_but_our_two_packages_into_site_packages(wheel: Path) -> None:
    top = {path.parts[0] for path in names_in_wheel(wheel)}

    assert {name for name in top if not name.endswith(".dist-info")} == _OURS


def test_the_wheel_carries_type_markers_style_sheets_and_the_licence(wheel: Path) -> None:
    names = set(map(str, names_in_wheel(wheel)))

    assert {"edgeapp/py.typed", "edgeapp_converters/py.typed"} <= names
    style_sheets = {str(path.relative_to(_PROJECT)) for path in (_PROJECT / "edgeapp").rglob("*.tcss")}
    assert style_sheets
    assert style_sheets <= names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_wheel_carries_every_file_of_the_models_folder(wheel: Path) -> None:
    names = set(map(str, names_in_wheel(wheel)))
    data = {
        str(PurePosixPath("edgeapp", path.relative_to(_PROJECT)))
        for path in (_PROJECT / "models").rglob("*")
        if path.is_file()
    }

    assert any(name.startswith("edgeapp/models/catalog/") for name in data)
    assert data <= names


def test_the_wheel_has_no_weights_and_no_bytecode(wheel: Path) -> None:
    assert not {path.suffix for path in names_in_wheel(wheel)} & {".gguf", ".pyc", ".so", ".part"}


def test_a_wheel_built_from_the_sdist_is_the_wheel_built_from_the_tree(
    wheel: Path, sdist: Path, tmp_path: Path
) -> None:
    rebuilt = build_wheel(sdist, tmp_path)

    assert sorted(names_in_wheel(rebuilt)) == sorted(names_in_wheel(wheel))


def test_the_sdist_has_the_source_and_none_of_what_was_built_beside_it(sdist: Path) -> None:
    top = {path.parts[0] for path in names_in_sdist(sdist) if path.parts}

    assert {"edgeapp", "converters", "models", "tests", "pyproject.toml", "LICENSE", "README.md"} <= top
    assert not top & {".venv", ".cache", ".git", ".mypy_cache", "dist", "site-packages"}


def test_the_wheels_edgeapp_is_imported_and_not_the_source_tree(
    installed: Path, environment: dict[str, str]
) -> None:
    code = "import edgeapp, edgeapp_converters; print(edgeapp.__file__, edgeapp_converters.__file__)"

    for file in from_root(environment, installed / "python", "-c", code).split():
        assert Path(file).is_relative_to(installed.parent)


def test_the_catalog_data_is_read_from_inside_the_wheel(installed: Path, environment: dict[str, str]) -> None:
    code = "from edgeapp import paths; print(paths.data_dir())"

    data = Path(from_root(environment, installed / "python", "-c", code).strip())

    assert data.is_relative_to(installed.parent)
    assert list((data / "catalog").iterdir())


def test_the_metadata_names_the_pinned_engine(installed: Path, environment: dict[str, str]) -> None:
    code = "from importlib.metadata import requires; print('\\n'.join(requires('edgeapp')))"
    project = tomllib.loads((_PROJECT / "pyproject.toml").read_text())["project"]
    (pinned,) = (text for text in project["dependencies"] if text.startswith("llama-cpp-python=="))

    assert pinned in from_root(environment, installed / "python", "-c", code).splitlines()


def test_the_installed_command_answers_from_the_root_folder(
    installed: Path, environment: dict[str, str]
) -> None:
    options = ["-p", "Name three colours.", "--temp", "0", "--max-tokens", "8", "--json"]

    answer = json.loads(from_root(environment, installed / "edgeapp", "run", "smollm2-135m", *options))

    assert answer["text"].strip()
    assert answer["finish_reason"] in ("stop", "length")
    assert 1 <= answer["usage"]["completion_tokens"] <= 8
    assert answer["usage"]["prompt_tokens"] > 0
    assert set(answer["timings"]) >= {"load_s", "ttft_s", "prompt_tps", "decode_tps"}
    assert answer["model"]
