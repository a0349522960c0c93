"""Opens a checkpoint of any family by way of llama.cpp's own converter.

The converter runs as a process of its own, within the bounds of `bridge_driver`, in the environment that
`bridge_environment` finds, and sees the folder that `bridge_stage` builds. What it writes, a GGUF of 16 or 32
bits, is our source then. Knows no family.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
from collections import Counter
from typing import TYPE_CHECKING

from edgeapp import paths
from edgeapp.cleantext import clean_line
from edgeapp.errors import ConversionFailed, EdgeappError, NotEnoughDisk, UnsupportedCheckpoint
from edgeapp.hardware import read_host
from edgeapp_converters import bridge_driver
from edgeapp_converters.bridge_environment import engine_version, find_environment
from edgeapp_converters.bridge_source import BridgedSource, Workplace
from edgeapp_converters.bridge_stage import has_tokenizer, stage
from edgeapp_converters.checkpoint import open_folder
from edgeapp_converters.events import StageProgress
from edgeapp_converters.gguf_source import open_gguf
from edgeapp_converters.opening import OpenedModel

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgeapp_converters.bridge_environment import BridgeEnvironment
    from edgeapp_converters.checkpoint import Checkpoint
    from edgeapp_converters.events import Report
    from edgeapp_converters.source import SourceTensor

_OUT_TYPES = {"BF16": ("bf16", 2), "F16": ("f16", 2), "F32": ("f32", 4), "F64": ("f32", 4)}
"""Which type keeps weights of a dtype; FP8 is widened to BF16."""
_FLOOR_BYTES = 1 << 30
_POLL_S = 0.5


def open_bridged(
    folder: Path, *, pre: str | None = None, offline: bool = False, report: Report
) -> OpenedModel:
    """Convert the checkpoint in `folder` to a GGUF in the cache and open that as the source.

    `pre` names the pre-tokenizer (llama.cpp's name) when the converter does not recognise it. Closing the
    source deletes that GGUF. Raise the errors of `open_folder`, `find_environment`, `run_bridge` and
    `open_gguf`.
    """
    checkpoint = open_folder(folder)
    try:
        known = (checkpoint.name, checkpoint.source.fingerprint, engine_version(), pre)
        workplace = Workplace(repr(known))
        try:
            opened = open_gguf(
                run_bridge(checkpoint, workplace.folder, pre=pre, offline=offline, report=report)
            )
        except BaseException:
            workplace.remove()
            raise
    except BaseException:
        checkpoint.source.close()
        raise
    return OpenedModel(
        name=checkpoint.name,
        source=BridgedSource(opened.source, original=checkpoint.source, workplace=workplace),
        plan=opened.plan,
        metadata=opened.plan.metadata,
        licence=opened.licence,
        tokenizer_folder=folder if has_tokenizer(folder) else None,
    )


def run_bridge(
    checkpoint: Checkpoint, scratch: Path, *, pre: str | None, offline: bool, report: Report
) -> Path:
    """Return the GGUF in `scratch` that llama.cpp's converter makes of `checkpoint`.

    Raise `UnsupportedCheckpoint` for what that converter does not know, `ConversionFailed` when it fails, and
    `NotEnoughDisk`.
    """
    made = scratch / "model.gguf"
    if made.is_file():  # an earlier run was killed behind this point
        return made
    out_type, expected_bytes = _expectation(checkpoint.source.tensors)
    _require_disk(scratch, expected_bytes)
    environment = find_environment(offline=offline, report=report)
    converting = made.with_name("converting.gguf")
    converting.unlink(missing_ok=True)
    job = {
        "parent": os.getpid(),
        "sources": str(environment.sources),
        "folder": str(stage(checkpoint, scratch, report=report)),
        "name": clean_line(checkpoint.name, max_chars=200),
        "outfile": str(converting),
        "outtype": out_type,
        "pre": pre or "",
        "max_file_bytes": 2 * expected_bytes + _FLOOR_BYTES,
        "max_memory_bytes": read_host().available_ram_bytes,
    }
    _convert(environment, job, converting, expected_bytes, report=report)
    return converting.rename(made)


def _expectation(tensors: Mapping[str, SourceTensor]) -> tuple[str, int]:
    """The type in which most weights stay as they are, and how many bytes the file will have, roughly."""
    n_elements: Counter[str] = Counter()
    for tensor in tensors.values():
        n_elements[tensor.dtype] += math.prod(tensor.shape)
    out_type, out_bytes = _OUT_TYPES.get(n_elements.most_common(1)[0][0], _OUT_TYPES["BF16"])
    return out_type, n_elements.total() * out_bytes


def _require_disk(folder: Path, expected_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    needed_bytes = expected_bytes + _FLOOR_BYTES
    if free_bytes < needed_bytes:
        raise NotEnoughDisk(
            f"{clean_line(str(folder), max_chars=300)} has {free_bytes / 2**30:.1f} GiB free; what "
            f"llama.cpp's converter writes needs {needed_bytes / 2**30:.1f} GiB, of which 1 GiB stays free.",
            needed_bytes=needed_bytes,
            free_bytes=free_bytes,
            hint="Free space, or move everything with EDGEAPP_HOME.",
        )


# The process ---------------------------------------------------------------------------------------------


def _convert(
    environment: BridgeEnvironment,
    job: dict[str, object],
    converting: Path,
    expected_bytes: int,
    *,
    report: Report,
) -> None:
    log_file = paths.make_private(paths.log_dir()) / "bridge.log"
    command = [str(environment.python), "-I", "-B", bridge_driver.__file__, json.dumps(job)]
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=converting.parent,
            env=_environment(converting.parent),
        )
        try:
            status = _followed(process, converting, expected_bytes, report=report)
        finally:
            process.kill()
            process.wait()
    if status != 0 or not converting.is_file():
        raise _failure(status, log_file)


def _environment(scratch: Path) -> dict[str, str]:
    """Nothing of the user's: no token, no proxy, no settings of Python."""
    offline = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")
    own = {"HOME": str(scratch), "TMPDIR": str(scratch), "LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"}
    return own | dict.fromkeys(offline, "1")


def _followed(
    process: subprocess.Popen[bytes], converting: Path, expected_bytes: int, *, report: Report
) -> int:
    def tell(done: int) -> None:
        what = "with llama.cpp's converter"
        report(StageProgress(stage="reading", done=done, total=expected_bytes, unit="bytes", label=what))

    tell(0)
    while True:
        try:
            status = process.wait(timeout=_POLL_S)
        except subprocess.TimeoutExpired:
            n_bytes = converting.stat().st_size if converting.is_file() else 0
            tell(min(n_bytes, expected_bytes - 1))
        else:
            tell(expected_bytes)
            return status


def _failure(status: int, log_file: Path) -> EdgeappError:
    text = log_file.read_text(errors="replace")
    if "is not supported" in text:
        return UnsupportedCheckpoint("llama.cpp's converter does not know this family either.")
    if "pre-tokenizer was not recognized" in text:
        return UnsupportedCheckpoint(
            "llama.cpp's converter does not recognise the pre-tokenizer of this checkpoint.",
            hint="Name it with --pre NAME, if you know which one it is.",
        )
    lines = [line for line in text.splitlines() if line.strip()]
    last = clean_line(lines[-1], max_chars=300) if lines else "It said nothing."
    reason = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"failed: {last}"
    return ConversionFailed(
        f"llama.cpp's converter {reason}",
        hint=f"All it said is in {clean_line(str(log_file), max_chars=300)}.",
    )
