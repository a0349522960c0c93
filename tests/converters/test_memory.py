"""Private memory while a checkpoint of any size is written. EDGEAPP_TEST_SPARSE_GB makes it larger."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

_LIMIT_MB = 150
_SPARSE_GB = float(os.environ.get("EDGEAPP_TEST_SPARSE_GB", "0.25"))
_MEASURE = """
import sys
from pathlib import Path
from gguf import GGMLQuantizationType as Q
from edgeapp_converters.metadata import string
from edgeapp_converters.writer import write_gguf
from tests.converters.raw_source import RawSource, typed, whole

folder, n_bytes, dtype, threads = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
n_expert, columns = 8, 4096
rows = n_bytes // (n_expert * columns * {"BF16": 2, "F32": 4}[dtype])
source = RawSource(folder)
expert_bytes = n_bytes // n_expert
with (folder / "only").open("wb") as file:
    file.truncate(n_bytes)
for e in range(n_expert):
    source.declare(f"e{e}", dtype, (rows, columns), e * expert_bytes, expert_bytes)
peak_kb = 0

def private_kb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1])

def look(event):
    global peak_kb
    peak_kb = max(peak_kb, private_kb())

parts = [whole(f"e{e}", rows, target_row=e * rows, expert=e) for e in range(n_expert)]
part = write_gguf(
    folder / "out.gguf",
    metadata={"general.architecture": string("llama")},
    tensors=[typed("blk.0.ffn_up_exps.weight", (n_expert, rows, columns), Q.Q8_0, *parts)],
    source=source,
    imatrix=None,
    n_threads=threads,
    fingerprint="",
    report=look,
)
part.close()
print(peak_kb)
"""


@pytest.mark.parametrize(("dtype", "n_threads"), [("BF16", 2), ("F32", 8)])
def test_private_memory_does_not_grow_with_the_checkpoint(tmp_path: Path, dtype: str, n_threads: int) -> None:
    n_bytes = int(_SPARSE_GB * 1e9) // (8 * 4096 * 4) * (8 * 4096 * 4)
    arguments = [sys.executable, "-c", _MEASURE, str(tmp_path), str(n_bytes), dtype, str(n_threads)]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    peak_mb = int(done.stdout) / 1000
    assert 10 < peak_mb < _LIMIT_MB
    (tmp_path / "out.gguf.part").unlink()
