"""Checkpoint to Q4_K_M: our one pass beside llama.cpp's converter and then llama-quantize.

Wall and CPU time, peak private memory, and disk space beside the finished file, on the demo MoE (F16, 507
million weights). The tensors must be the same bytes. The peer needs a Python with torch and transformers and
llama.cpp's sources: EDGEAPP_BRIDGE_PYTHON and EDGEAPP_LLAMA_CPP name them.
Targets: wall ≤ 0.75×, private memory ≤ 0.2×, no extra disk.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from gguf import GGUFReader

from benchmarks._engines import machine, n_threads, peer
from benchmarks._processes import Cost, cost_of
from edgeapp.cli.conversion_source import upcycled_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeapp_converters.events import ConversionEvent

N_PAIRS = 3


def main() -> None:
    python, sources = os.environ.get("EDGEAPP_BRIDGE_PYTHON"), os.environ.get("EDGEAPP_LLAMA_CPP")
    if not python or not sources:
        sys.exit("EDGEAPP_BRIDGE_PYTHON and EDGEAPP_LLAMA_CPP must be set, see the top of this file")
    machine()
    checkpoint = upcycled_checkpoint("smollm2-135m", report=_silent)
    ours: list[Cost] = []
    theirs: list[Cost] = []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(N_PAIRS):
            folder = Path(scratch) / str(number)
            ours.append(_ours(checkpoint, folder / "ours"))
            theirs.append(_theirs(checkpoint, folder / "theirs", python, sources))
        last = Path(scratch) / str(N_PAIRS - 1)
        made, official = last / "ours" / "model.gguf", last / "theirs" / "model.gguf"
        final_bytes = made.stat().st_size
        same, n_tensors = _same_tensors(made, official)
    print(f"{same} of {n_tensors} tensors are the same bytes")
    _compare("wall time, s", ours, theirs, lambda cost: cost.wall_s)
    _compare("CPU time, s", ours, theirs, lambda cost: cost.cpu_s)
    _compare("peak private memory, MB", ours, theirs, lambda cost: cost.private_bytes / 1e6)
    _compare(
        "disk beside the result, MB", ours, theirs, lambda cost: max(cost.disk_bytes - final_bytes, 0) / 1e6
    )


def _ours(checkpoint: Path, folder: Path) -> Cost:
    """The whole command, with loading the result, its tokenizer's round trip and one token."""
    folder.mkdir(parents=True)
    out = str(folder / "model.gguf")
    command = [sys.executable, "-m", "edgeapp", "convert", str(checkpoint), "--recipe", "q4_k_m", "-o", out]
    return cost_of([*command, "--threads", str(n_threads())], folder=folder)


def _theirs(checkpoint: Path, folder: Path, python: str, sources: str) -> Cost:
    folder.mkdir(parents=True)
    whole, out = str(folder / "f16.gguf"), str(folder / "model.gguf")
    converter = f"{sources}/convert_hf_to_gguf.py"
    offline = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": f"{sources}/gguf-py"}
    convert = [python, converter, str(checkpoint), "--outtype", "f16", "--outfile", whole]
    first = cost_of(convert, folder=folder, environment=offline)
    quantise = [str(peer("llama-quantize")), whole, out, "Q4_K_M", str(n_threads())]
    return first.then(cost_of(quantise, folder=folder))


def _same_tensors(ours: Path, theirs: Path) -> tuple[int, int]:
    one, other = _digests(ours), _digests(theirs)
    return sum(other.get(name) == digest for name, digest in one.items()), len(other)


def _digests(path: Path) -> dict[str, str]:
    return {
        tensor.name: hashlib.sha256(np.ascontiguousarray(tensor.data).tobytes()).hexdigest()
        for tensor in GGUFReader(path).tensors
    }


def _compare(name: str, ours: list[Cost], theirs: list[Cost], value: Callable[[Cost], float]) -> None:
    pairs = [(value(mine), value(other)) for mine, other in zip(ours, theirs, strict=True)]
    mine, other = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(a / b if b else 0.0 for a, b in pairs)
    print(f"{name:<28} ours {mine:8.1f}   converter + llama-quantize {other:8.1f}   ratio {ratio:.2f}×")


def _silent(_event: ConversionEvent) -> None:
    pass


if __name__ == "__main__":
    main()
