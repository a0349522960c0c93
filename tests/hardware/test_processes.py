from __future__ import annotations

import os
import subprocess
import sys

from edgeapp import hardware


def test_resident_memory_of_this_process_is_known_and_of_a_dead_one_is_0() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()

    assert hardware.process_rss_bytes(os.getpid()) > 1 << 20
    assert hardware.process_rss_bytes(child.pid) == 0


def test_a_process_has_one_identity_for_life_and_none_when_it_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    alive = hardware.process_identity(child.pid)

    assert alive
    assert alive == hardware.process_identity(child.pid)
    assert alive != hardware.process_identity(os.getpid())

    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not hardware.process_identity(child.pid), "a zombie is gone"
    child.communicate()
    assert not hardware.process_identity(child.pid)


def test_a_child_is_known_while_it_runs() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    assert child.pid in hardware.child_pids(os.getpid())

    child.communicate()
    assert child.pid not in hardware.child_pids(os.getpid())
    assert hardware.child_pids(child.pid) == ()


def test_the_biggest_programs_are_named_once_and_in_order() -> None:
    programs = hardware.biggest_programs(5)

    assert [p.used_bytes for p in programs] == sorted((p.used_bytes for p in programs), reverse=True)
    assert len({program.name for program in programs}) == len(programs) > 0


def test_our_own_processes_are_not_among_the_others() -> None:
    code = "import sys; block = bytearray(200 << 20); sys.stdout.write('x'); sys.stdout.flush(); input()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.read(1)

    with_it = sum(program.used_bytes for program in hardware.biggest_programs(10**6))
    without = sum(program.used_bytes for program in hardware.biggest_programs(10**6, except_pids={child.pid}))
    child.communicate()

    assert with_it - without > 100 << 20
