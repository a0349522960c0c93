"""llama.cpp's own quantiser, the oracle, in a process of its own: a failed assertion ends it.

As a program it does one `Job` for each line of JSON on its stdin.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from gguf import GGMLQuantizationType

from edgeapp.gguf_info.parts import read_header

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True)
class Job:
    """A GGUF to quantise to `output`; `file_type` is a number of LlamaFileType."""

    model: str
    output: str
    file_type: int
    has_imatrix: bool = False
    allow_requantize: bool = False


def official_types(jobs: Sequence[Job]) -> tuple[dict[str, GGMLQuantizationType], ...]:
    """Do as llama-quantize does; return for each job the type that every tensor got."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.converters.official_quantiser"],
        input=b"\n".join(map(msgspec.json.encode, jobs)),
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:].decode(errors="replace")
    return tuple(_types(job.output) for job in jobs)


def _types(path: str) -> dict[str, GGMLQuantizationType]:
    return {tensor.name: GGMLQuantizationType[tensor.type.name] for tensor in read_header(Path(path)).tensors}


def _quantise(job: Job) -> int:
    """An importance matrix for a tensor that is not there changes the choice of types and no weight."""
    import llama_cpp

    entries = (llama_cpp.llama_model_imatrix_data * 2)()
    value = (ctypes.c_float * 1)(1.0)
    entries[0] = llama_cpp.llama_model_imatrix_data(b"none", value, 1)
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = job.file_type, 1
    params.allow_requantize = job.allow_requantize
    if job.has_imatrix:
        params.imatrix = ctypes.cast(entries, ctypes.POINTER(llama_cpp.llama_model_imatrix_data))
    return int(llama_cpp.llama_model_quantize(job.model.encode(), job.output.encode(), params))


if __name__ == "__main__":
    sys.exit(max(_quantise(msgspec.json.decode(line, type=Job)) for line in sys.stdin.buffer))
