"""Check this machine and say how to fix what is missing: facts in, findings out.

Each `check_*` in this package judges facts that are handed to it and touches nothing; `examine` gathers
the facts.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from edgeapp import hardware, paths
from edgeapp.doctor import engine, gpu, host, models, predictions, terminal
from edgeapp.doctor.finding import Finding
from edgeapp.profiles.predictions import last_records

if TYPE_CHECKING:
    from collections.abc import Iterator

_N_PROGRAMS = 2

__all__ = ["Finding", "examine"]


def examine() -> Iterator[Finding]:
    """Yield a finding for everything edgeapp depends on."""
    yield host.check_python(sys.version_info[:3])
    answer, reading = engine.ask_engine(), hardware.read_gpus()
    yield engine.check_engine(answer)
    yield gpu.check_gpu(reading, answer)
    yield gpu.check_cuda_toolkit(gpu.find_cuda_toolkit(), reading, answer)
    yield from map(gpu.check_vram, gpu.sample_cards())
    machine = hardware.read_host()
    yield host.check_cpu(machine)
    yield host.check_ram(machine, hardware.biggest_programs(_N_PROGRAMS))
    yield host.check_swap(machine)
    yield host.check_disk(paths.models_dir(), host.free_disk_bytes(paths.models_dir()))
    for name, folder in host.folders().items():
        yield host.check_writable(name, folder)
    yield terminal.check_terminal(terminal.read_terminal())
    yield terminal.check_colours(os.environ)
    yield models.check_demo(models.find_demo_model())
    yield predictions.check_predictions(last_records())
    yield from models.examine_settings()
