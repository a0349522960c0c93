from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from edgeapp import protocol
from edgeapp.doctor import engine, gpu, host, models, terminal
from edgeapp.doctor.engine import EngineAnswer
from edgeapp.doctor.terminal import Terminal
from edgeapp.hardware import Gpu, GpuProcess, GpuReading, GpuSample, Host, ProgramMemory
from tests.fake_nvml import FakeNvml

if TYPE_CHECKING:
    from pathlib import Path

_GIB = 1024**3
_CPU = protocol.Device(name="CPU", description="a CPU", kind="cpu", free_bytes=0, total_bytes=0)
_CUDA = protocol.Device(name="CUDA0", description="RTX 4090", kind="gpu", free_bytes=0, total_bytes=0)
_RTX_4090 = Gpu(
    index=0,
    name="RTX 4090",
    total_bytes=24 * _GIB,
    free_bytes=23 * _GIB,
    driver_version="580.65.06",
    compute_capability=(8, 9),
)


def greeting(*devices: protocol.Device, protocol_version: int = protocol.PROTOCOL_VERSION) -> EngineAnswer:
    hello = protocol.Hello(
        protocol_version=protocol_version,
        pid=1,
        binding_version="0.3.36",
        system_info="CPU : SSE3 = 1 | AVX2 = 1 | AVX512 = 0 | REPACK = 1 | ",
        devices=devices,
    )
    return EngineAnswer(hello=hello)


def a_host(*, available_ram_bytes: int) -> Host:
    return Host(
        total_ram_bytes=32 * _GIB,
        available_ram_bytes=available_ram_bytes,
        total_swap_bytes=0,
        free_swap_bytes=0,
        cpu_model="a CPU",
        physical_cores=8,
        logical_cores=16,
    )


def a_terminal(*, columns: int = 120, codeset: str = "UTF-8") -> Terminal:
    return Terminal(is_tty=True, columns=columns, rows=40, codeset=codeset, variables={"TMUX": "/tmp/x,1,0"})  # noqa: S108 - tmux's form


def test_python_3_10_is_too_old_and_3_11_is_not() -> None:
    assert host.check_python((3, 10, 14)).level == "fail"
    assert host.check_python((3, 11, 0)).level == "ok"


def test_the_real_engine_says_hello_and_names_its_features() -> None:
    finding = engine.check_engine(engine.ask_engine())

    assert finding.level == "ok", finding.found
    assert finding.found.startswith("llama-cpp-python 0.3.36, CPU")


def test_an_engine_that_cannot_import_its_binding_is_a_failure_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "llama_cpp"
    broken.mkdir()
    (broken / "__init__.py").write_text("")
    (broken / "llama_cpp.py").write_text("raise RuntimeError('built for another machine')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{':'.join(filter(None, sys.path))}")

    finding = engine.check_engine(engine.ask_engine())

    assert finding.level == "fail"
    assert finding.found.startswith("the engine does not start: ")
    assert "make run" in finding.fix


def test_a_worker_that_says_nothing_is_quoted_by_its_last_words_without_control_codes() -> None:
    answer = engine.read_greeting(
        b"", stderr="Traceback\nOSError: \x1b[31mlibllama.so is missing\n", status=1
    )

    assert answer.problem == "OSError: [31mlibllama.so is missing"


def test_a_worker_that_says_nonsense_is_not_believed() -> None:
    answer = engine.read_greeting(b"Welcome to Python", stderr="", status=0)

    assert answer.hello is None
    assert answer.problem == "not understood: Welcome to Python"


def test_a_worker_that_reports_a_failure_is_quoted() -> None:
    line = protocol.encode(protocol.Failed(code="binding_mismatch", message="needs 0.3.36"))

    assert engine.read_greeting(line, stderr="", status=1).problem == "needs 0.3.36"


def test_another_protocol_version_is_a_failure() -> None:
    assert engine.check_engine(greeting(_CPU, protocol_version=99)).level == "fail"


def test_features_that_are_off_are_not_listed() -> None:
    assert engine.enabled_features("CPU : SSE3 = 1 | AVX512 = 0 | REPACK = 1 | ") == ("SSE3", "REPACK")


def test_a_gpu_beside_a_cpu_build_is_a_warning_that_names_the_remedy() -> None:
    finding = gpu.check_gpu(GpuReading(gpus=(_RTX_4090,)), greeting(_CPU))

    assert finding.level == "warn"
    assert "built for the CPU only" in finding.found
    assert "make run" in finding.fix


def test_a_gpu_that_the_engine_uses_is_fine() -> None:
    finding = gpu.check_gpu(GpuReading(gpus=(_RTX_4090,)), greeting(_CUDA, _CPU))

    assert (finding.level, finding.fix) == ("ok", "")
    assert finding.found == "RTX 4090, 23.0 GiB of 24.0 GiB free, driver 580.65.06"


def test_no_gpu_is_fine() -> None:
    assert gpu.check_gpu(GpuReading(gpus=()), greeting(_CPU)).level == "ok"


def test_a_gpu_without_a_driver_is_a_warning() -> None:
    assert gpu.check_gpu(GpuReading(gpus=(), problems=("lost",)), greeting(_CPU)).level == "warn"


def test_a_missing_cuda_toolkit_matters_only_for_a_gpu_that_is_not_used() -> None:
    unused, none = GpuReading(gpus=(_RTX_4090,)), GpuReading(gpus=())

    assert gpu.check_cuda_toolkit("", unused, greeting(_CPU)).level == "warn"
    assert gpu.check_cuda_toolkit("", unused, greeting(_CUDA)).level == "ok"
    assert gpu.check_cuda_toolkit("", none, greeting(_CPU)).level == "ok"


def test_little_free_memory_is_a_warning_and_enough_is_not() -> None:
    assert host.check_ram(a_host(available_ram_bytes=_GIB)).level == "warn"
    assert host.check_ram(a_host(available_ram_bytes=8 * _GIB)).level == "ok"


@pytest.mark.parametrize(("free_gib", "level"), [(0, "fail"), (5, "warn"), (50, "ok")])
def test_disk_space_is_judged_by_the_size_of_a_model(tmp_path: Path, free_gib: int, level: str) -> None:
    assert host.check_disk(tmp_path, free_gib * _GIB).level == level


def test_a_folder_that_is_not_there_yet_is_fine_and_is_not_created(tmp_path: Path) -> None:
    folder = tmp_path / "home" / "models"

    assert host.check_writable("models folder", folder).level == "ok"
    assert not folder.exists()


def test_a_file_where_a_folder_should_be_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("")

    finding = host.check_writable("models folder", tmp_path / "models")

    assert finding.level == "fail"
    assert str(tmp_path / "models") in finding.fix


def test_a_terminal_without_utf_8_is_a_warning() -> None:
    assert terminal.check_terminal(a_terminal(codeset="ANSI_X3.4-1968")).level == "warn"
    assert terminal.check_terminal(a_terminal(codeset="UTF-8")).level == "ok"


def test_a_narrow_terminal_is_a_warning_and_tmux_is_named() -> None:
    assert terminal.check_terminal(a_terminal(columns=40)).level == "warn"
    assert "inside tmux" in terminal.check_terminal(a_terminal()).found


@pytest.mark.parametrize(
    ("variables", "level"),
    [
        ({"COLORTERM": "truecolor", "TERM": "xterm"}, "ok"),
        ({"TERM": "xterm-256color"}, "ok"),
        ({"TERM": "xterm"}, "warn"),
        ({"TERM": "dumb"}, "warn"),
        ({}, "warn"),
    ],
)
def test_colours_follow_colorterm_then_term(variables: dict[str, str], level: str) -> None:
    assert terminal.check_colours(variables).level == level


def test_the_demo_model_is_found_inside_its_package() -> None:
    model = models.find_demo_model()

    assert model is not None
    assert model.read_bytes()[:4] == b"GGUF"
    assert models.check_demo(model).level == "ok"


def test_a_missing_demo_model_is_a_warning() -> None:
    assert models.check_demo(None).level == "warn"


def test_the_hub_token_is_noticed_and_never_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEAPP_HOME", str(tmp_path))
    monkeypatch.setenv("EDGEAPP_OFFLINE", "false")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")

    finding = list(models.examine_settings())[-1]

    assert finding.found == "downloads allowed, with a token"


def test_the_offline_switch_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEAPP_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    assert list(models.examine_settings())[-1].found.startswith("offline")


def test_a_broken_config_file_is_a_finding_not_a_crash(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGEAPP_HOME", str(tmp_path))
    (tmp_path / "config.toml").write_text("temp = [")

    assert [finding.level for finding in models.examine_settings()] == ["fail"]


def a_card(*others: GpuProcess, lost: bool = False) -> GpuSample:
    return GpuSample(
        index=0, name="RTX 4060", total_bytes=8 * _GIB, free_bytes=5 * _GIB, others=others, lost=lost
    )


def test_a_program_that_holds_much_vram_is_named_with_what_to_do() -> None:
    finding = gpu.check_vram(a_card(GpuProcess(pid=1, name="blender", used_bytes=3 * _GIB)))

    assert finding.level == "warn"
    assert finding.found == "5.0 GiB of 8.0 GiB free; other programs hold 3.0 GiB: blender 3.0 GiB"
    assert "close blender" in finding.fix


def test_a_desktop_that_holds_a_little_vram_is_fine() -> None:
    finding = gpu.check_vram(a_card(GpuProcess(pid=1, name="Xorg", used_bytes=_GIB // 2)))

    assert finding.level == "ok"
    assert "Xorg 0.5 GiB" in finding.found


def test_holders_whose_share_the_driver_does_not_tell_are_not_blamed() -> None:
    finding = gpu.check_vram(a_card(GpuProcess(pid=1, name="x", used_bytes=None)))

    assert finding.level == "ok"
    assert "no other program" in finding.found


def test_a_lost_card_is_a_warning() -> None:
    finding = gpu.check_vram(a_card(lost=True))

    assert finding.level == "warn"
    assert "lost" in finding.found


def test_low_ram_names_the_programs_that_hold_most() -> None:
    programs = [ProgramMemory(name="chrome", used_bytes=9 * _GIB)]

    finding = host.check_ram(a_host(available_ram_bytes=_GIB), programs)

    assert finding.level == "warn"
    assert "chrome holds 9.0 GiB" in finding.fix


@pytest.mark.parametrize(
    ("total_gib", "free_gib", "level"), [(0, 0, "ok"), (8, 7, "ok"), (8, 6, "warn"), (8, 0, "warn")]
)
def test_much_swap_in_use_is_a_warning(total_gib: int, free_gib: int, level: str) -> None:
    swapping = replace(
        a_host(available_ram_bytes=9 * _GIB),
        total_swap_bytes=total_gib * _GIB,
        free_swap_bytes=free_gib * _GIB,
    )

    assert host.check_swap(swapping).level == level


def test_the_cards_of_this_machine_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(tmp_path, monkeypatch)
    nvml.gpus[0].compute = {os.getppid(): 2 * _GIB}
    nvml.save()

    (finding,) = map(gpu.check_vram, gpu.sample_cards())

    assert finding.level == "warn"
    assert "other programs hold 2.0 GiB" in finding.found
