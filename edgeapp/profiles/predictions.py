"""What was predicted and what came, for the last requests: a small file that `edgeapp doctor` reads.

Holds speeds and facts of the machine, never a prompt or an answer.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

import msgspec

from edgeapp import paths
from edgeapp.profiles import kept_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_RECORDS = 200
_MAX_FILE_BYTES = 512 << 10
"""Some 600 bytes a record: when the file has grown to this, the older half is dropped."""


class MachineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the machine did while an answer was computed. None is not known; bytes, seconds, cores."""

    elapsed_s: float
    worker_cores: float = 0.0
    """CPUs that the engine kept busy, on average."""
    others_cores: float = 0.0
    """CPUs that other programs, or other guests of the same host, kept busy."""
    host_cores: int = 1
    major_faults: int = 0
    """Pages of the worker that had to be read from a disk."""
    swapped_in_bytes: int = 0
    """By any program."""
    available_ram_bytes: int = 0
    ram_weights_bytes: int = 0
    """Weights that are computed with in host memory."""
    load_mode: str = "mmap"
    gpu_temperature_c: int | None = None
    gpu_throttles: tuple[str, ...] = ()
    """Why the GPU's clock is held down, in NVML's words: "power cap", "thermal"."""
    gpu_other_bytes: int = 0
    """VRAM of other programs."""
    gpu_others: tuple[str, ...] = ()
    """Their names."""
    pcie_width: int | None = None
    pcie_max_width: int | None = None
    ram_read_bps: float = 0.0
    """What the prediction reckoned with."""
    assumed_ram_read_bps: float = 0.0
    """What is usual for such a machine; differs only where it was measured."""
    is_measured: bool = False
    """The speeds of the machine had been measured."""


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens per second, predicted and actual; an actual of 0 was not comparable."""

    decode_tps: float
    prefill_tps: float
    actual_decode_tps: float = 0.0
    actual_prefill_tps: float = 0.0


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One request. `plan` is the sentence that described the placement."""

    at_s: float
    """Unix time."""
    source: str
    """run, bench or tune."""
    model: str
    plan: str
    bottleneck: str
    uses_gpu: bool
    speeds: Prediction
    facts: MachineFacts


def record(entry: Record) -> None:
    """Append `entry` to the last records. Never fails: without a record there is only no advice."""
    path = _file()
    try:
        paths.make_private(path.parent)
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(msgspec.json.encode(entry) + b"\n")
            file.flush()
            if os.fstat(file.fileno()).st_size > _MAX_FILE_BYTES:
                _drop_older_half(path)
    except OSError:
        return


def last_records(count: int = MAX_RECORDS) -> tuple[Record, ...]:
    """Return the last `count` records, the newest last; lines that cannot be read are left out."""
    try:
        lines = _file().read_bytes().splitlines()[-count:]
    except OSError:
        return ()
    return tuple(_understood(lines))


def _understood(lines: list[bytes]) -> Iterator[Record]:
    for line in lines:
        try:
            yield msgspec.json.decode(line, type=Record)
        except (ValueError, msgspec.MsgspecError):
            continue


def _drop_older_half(path: Path) -> None:
    """Keep the newer half. The file keeps its name and its lock, so that no other writer is lost."""
    lines = path.read_bytes().splitlines(keepends=True)
    newer = b"".join(lines[len(lines) // 2 :])
    with path.open("r+b") as file:
        file.write(newer)
        file.truncate()


def _file() -> Path:
    return kept_file.folder() / "predictions.jsonl"
