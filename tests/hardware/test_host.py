from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from edgeapp import hardware
from edgeapp.hardware.cgroups import cgroup_memory
from edgeapp.hardware.host import _cpu_model, _physical_cores
from tests.hardware.kernel_files import put


def test_the_host_offers_no_more_than_the_kernel_says() -> None:
    host = hardware.read_host()

    assert 0 < host.available_ram_bytes <= host.total_ram_bytes <= psutil.virtual_memory().total
    assert 1 <= host.physical_cores <= host.logical_cores <= len(os.sched_getaffinity(0))
    assert host.cpu_model


def test_hyper_threads_of_one_core_count_once(machine: Path) -> None:
    for cpu, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        put(machine, f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", siblings)

    assert _physical_cores({0, 1, 2, 3}) == 2
    assert _physical_cores({0, 2}) == 1


@pytest.mark.parametrize(("listed", "n_cores"), [("0-3", 2), ("0,1", 2), ("2", 1), ("", 4), ("x", 4)])
def test_of_a_hybrid_only_the_performance_cores_count(machine: Path, listed: str, n_cores: int) -> None:
    for cpu, siblings in enumerate(["0,2", "1,3", "0,2", "1,3", "4", "5"]):
        put(machine, f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", siblings)
    put(machine, "sys/devices/cpu_core/cpus", listed)

    assert _physical_cores(set(range(6))) == n_cores


def test_a_process_pinned_to_one_cpu_sees_one_core() -> None:
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]);"
        "from edgeapp import hardware; host = hardware.read_host();"
        "print(host.physical_cores, host.logical_cores)"
    )
    root = Path(hardware.__file__).parents[2]

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout.split() == ["1", "1"]


def test_a_cgroup_limit_bounds_total_and_available_memory(machine: Path) -> None:
    put(machine, "proc/self/cgroup", "0::/user.slice/app.scope\n")
    scope = "sys/fs/cgroup/user.slice/app.scope"
    put(machine, f"{scope}/memory.max", f"{64 << 20}\n")
    put(machine, f"{scope}/memory.current", f"{48 << 20}\n")
    put(machine, f"{scope}/memory.stat", f"anon 1\nactive_file {4 << 20}\ninactive_file {8 << 20}\n")

    host = hardware.read_host()

    assert host.total_ram_bytes == 64 << 20
    assert host.available_ram_bytes == (64 - 48 + 4 + 8) << 20


def test_the_limit_of_a_parent_cgroup_holds_too(machine: Path) -> None:
    put(machine, "proc/self/cgroup", "0::/user.slice/app.scope\n")
    put(machine, "sys/fs/cgroup/user.slice/app.scope/memory.max", "max\n")
    put(machine, "sys/fs/cgroup/user.slice/memory.max", f"{32 << 20}\n")
    put(machine, "sys/fs/cgroup/user.slice/memory.current", f"{40 << 20}\n")

    host = hardware.read_host()

    assert host.total_ram_bytes == 32 << 20
    assert host.available_ram_bytes == 0


def test_a_cpu_quota_of_one_and_a_half_cpus_grants_one_core(machine: Path) -> None:
    put(machine, "proc/self/cgroup", "0::/app.scope\n")
    put(machine, "sys/fs/cgroup/app.scope/cpu.max", "150000 100000\n")

    assert hardware.read_host().physical_cores == 1


def test_cgroup_version_1_sets_no_limit(machine: Path) -> None:
    put(machine, "proc/self/cgroup", "4:memory:/user\n2:cpu:/user\n")

    assert list(cgroup_memory()) == []


def test_a_machine_that_does_not_name_its_cpu_is_called_by_its_architecture(machine: Path) -> None:
    assert _cpu_model() == os.uname().machine
