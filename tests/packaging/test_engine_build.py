"""The scripts behind `make run`, without compiling anything."""

from __future__ import annotations

import dataclasses
import importlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from types import ModuleType

_SCRIPTS = Path(__file__).resolve().parents[2] / "packaging" / "engine"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CMAKE_ARGS", raising=False)
    monkeypatch.syspath_prepend(str(_SCRIPTS))
    return tmp_path / "cache"


@pytest.fixture
def flavour() -> ModuleType:
    return importlib.import_module("flavour")


@pytest.fixture
def build_log() -> ModuleType:
    return importlib.import_module("build_log")


@pytest.fixture
def gpu_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs that answer as on a machine with an NVIDIA GPU and the CUDA toolkit."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, said in {"nvidia-smi": "GPU 0: NVIDIA GeForce RTX 4090", "nvcc": "release 13.0"}.items():
        (programs / name).write_text(f"#!/bin/sh\necho '{said}'\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return programs


def test_a_gpu_and_nvcc_make_a_cuda_build_for_that_gpu(flavour: ModuleType, gpu_machine: Path) -> None:
    chosen = flavour.choose("auto")

    assert chosen.name == "cuda"
    assert {"-DGGML_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=native"} <= set(chosen.cmake_args)
    assert f"-DCMAKE_CUDA_COMPILER={gpu_machine / 'nvcc'}" in chosen.cmake_args


def test_a_gpu_without_nvcc_makes_a_cpu_build_and_says_what_is_missing(
    flavour: ModuleType, gpu_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flavour, "_find_nvcc", lambda: None)

    chosen = flavour.choose("auto")

    assert chosen.name == "cpu"
    assert "no nvcc" in chosen.reason
    assert "CUDA toolkit" in chosen.reason


def test_engine_cpu_overrules_what_the_machine_offers(flavour: ModuleType, gpu_machine: Path) -> None:
    assert flavour.choose("cpu").name == "cpu"


def test_the_newest_cuda_toolkit_counts_numbers_not_letters(flavour: ModuleType) -> None:
    old, new = Path("/usr/local/cuda-9.2/bin/nvcc"), Path("/usr/local/cuda-12.8/bin/nvcc")

    assert max(old, new, key=flavour._toolkit_version) == new


def test_a_build_is_named_after_everything_it_depends_on(flavour: ModuleType) -> None:
    here = flavour.choose("cpu")
    other_cpu = dataclasses.replace(here, built_for=("x86_64", "another CPU"))
    other_options = dataclasses.replace(here, cmake_args=("-DGGML_AVX512=OFF",))

    keys = [here.key("0.3.36"), here.key("0.3.37"), other_cpu.key("0.3.36"), other_options.key("0.3.36")]

    assert len(set(keys)) == len(keys)
    assert keys[0] == flavour.choose("cpu").key("0.3.36")
    assert keys[0].startswith("0.3.36-cpu-")


def test_the_users_own_cmake_args_are_kept_and_change_the_name(
    flavour: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = flavour.choose("cpu")
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_BLAS=ON")

    assert "-DGGML_BLAS=ON" in flavour.choose("cpu").cmake_args
    assert flavour.choose("cpu").key("0.3.36") != plain.key("0.3.36")


@pytest.mark.parametrize(
    ("line", "fraction"),
    [
        ("  [57/114] Building CXX object src/CMakeFiles/llama.dir/llama.cpp.o", 0.5),
        ("[ 41%] Building CXX object", 0.41),
        ("[1/2] Building C object CMakeFiles/cmTC_1d0a5.dir/testCCompiler.c.o", None),
        ("-- Configuring done", None),
    ],
)
def test_progress_is_read_from_ninja_and_make(
    build_log: ModuleType, line: str, fraction: float | None
) -> None:
    assert build_log.read_fraction(line) == fraction


def test_progress_that_is_not_on_a_terminal_prints_every_five_percent(build_log: ModuleType) -> None:
    out = io.StringIO()
    progress = build_log.Progress(label="Building", out=out)

    for step in range(1, 201):
        progress.feed(f"[{step}/200] Building CXX object")

    lines = out.getvalue().splitlines()
    assert len(lines) == 21
    assert "100 %" in lines[-1]
    assert "\r" not in out.getvalue()


def test_a_failed_build_names_its_log_and_shows_its_last_words(
    build_log: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-c", "print('fatal error: no such header'); raise SystemExit(3)"]
    log_file = tmp_path / "build.log"

    with pytest.raises(Exception, match=f"status 3; the full log is {log_file}"):
        build_log.run(command, label="Building", log_file=log_file)

    assert "no such header" in capsys.readouterr().err
    assert "no such header" in log_file.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_build_leaves_no_process_and_no_folder(
    own_cache: Path, tmp_path: Path, number: signal.Signals
) -> None:
    script = (
        "import sys, failure, build_log, store; from pathlib import Path\n"
        "def main():\n"
        "    with store.workshop() as folder:\n"
        "        child = \"import time; print('[1/20]', flush=True); time.sleep(600)\"\n"
        "        build_log.run([sys.executable, '-c', child], label='Building', log_file=folder / 'log')\n"
        "failure.run(main)\n"
    )
    build = subprocess.Popen(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(_SCRIPTS)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert build.stderr is not None
    assert "5 %" in build.stderr.readline()
    (child,) = psutil.Process(build.pid).children()

    build.send_signal(number)
    _, errors = build.communicate(timeout=60)

    assert build.returncode == 130
    assert "Nothing half-built was kept" in errors
    assert not child.is_running()
    assert not list(own_cache.rglob(".building-*"))


def test_a_finished_file_gets_its_name_in_one_step(own_cache: Path, tmp_path: Path) -> None:
    store = importlib.import_module("store")
    made = tmp_path / "made.whl"
    made.write_bytes(b"wheel")

    placed = store.place(made, store.root() / "key" / "made.whl")

    assert placed.read_bytes() == b"wheel"
    assert [path.name for path in placed.parent.iterdir()] == ["made.whl"]


def test_a_wheel_in_the_cache_is_used_without_a_build(flavour: ModuleType) -> None:
    engine_wheel, store = (importlib.import_module(name) for name in ("engine_wheel", "store"))
    chosen = flavour.choose("cpu")
    cached = store.root() / chosen.key("0.3.36") / "llama_cpp_python-0.3.36-py3-none-linux_x86_64.whl"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"wheel")

    assert engine_wheel.ensure(chosen, "0.3.36") == cached


def test_two_builds_of_one_thing_wait_for_each_other(own_cache: Path) -> None:
    store = importlib.import_module("store")
    waiting = "import store\nwith store.locked('engine'): print('mine')"

    with store.locked("engine"):
        second = subprocess.Popen(
            [sys.executable, "-c", waiting],
            env=os.environ | {"PYTHONPATH": str(_SCRIPTS)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert second.stderr is not None
        assert "another process is making engine" in second.stderr.readline()
        time.sleep(0.2)
        assert second.poll() is None

    out, _ = second.communicate(timeout=60)
    assert out == "mine\n"


def test_the_pinned_engine_is_the_one_the_bindings_expect() -> None:
    sdist = importlib.import_module("sdist")
    bindings = importlib.import_module("edgeapp.engine.bindings")

    assert sdist.pinned_version() == bindings.BINDING_VERSION


def test_a_bare_machine_is_told_in_one_sentence_what_is_missing(tmp_path: Path) -> None:
    shutil.copytree(_SCRIPTS, tmp_path / "packaging" / "engine")
    bare = tmp_path / "bin"
    bare.mkdir()
    (bare / "dirname").symlink_to(str(shutil.which("dirname")))

    done = subprocess.run(
        ["/bin/sh", tmp_path / "packaging" / "engine" / "bootstrap.sh", "demo"],
        env={"PATH": str(bare)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    first, *hints = done.stderr.splitlines()
    assert done.returncode == 1
    assert first.startswith("error: edgeapp needs Python 3.11 or newer, git, make, a C++ compiler, ")
    assert "sudo apt-get install -y python3 python3-venv git make build-essential" in hints[0]
    assert "sudo dnf install -y python3.12 git make gcc-c++" in hints[1]
    assert not (tmp_path / ".venv").exists()
