"""A checkpoint of three shards with distinct experts and the plan that stacks them; also a program.

As a program it converts until it is killed: FOLDER holds the shards, TARGET is what is written. Each line on
its stdout is a number of bytes done.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from gguf import GGMLQuantizationType

from edgeapp_converters import crew, meter, pieces, writer
from edgeapp_converters.events import StageProgress
from edgeapp_converters.metadata import f32, string, u32
from edgeapp_converters.plan import Encoding, Part, TensorPlan, TypedTensor
from tests.converters.raw_source import RawSource, bf16, typed, whole

if TYPE_CHECKING:
    from edgeapp_converters.events import ConversionEvent, Report
    from edgeapp_converters.imatrix import Imatrix
    from edgeapp_converters.metadata import Metadata
    from edgeapp_converters.partial_gguf import PartialGguf

Q = GGMLQuantizationType
N_EXPERT = 6
ROWS, COLUMNS = 320, 1024
SHARDS = ("one", "two", "three")
METADATA: Metadata = {
    "general.architecture": string("llama"),
    "edgeapp.quality.kld_mean": f32(0.0),
    "edgeapp.quality.n_tokens": u32(0),
}


def make_source(folder: Path) -> RawSource:
    """Write the checkpoint, or describe the one that is there."""
    source = RawSource(folder, SHARDS)
    random = np.random.default_rng(5)
    folder.mkdir(exist_ok=True)
    for shard in SHARDS:
        (folder / shard).unlink(missing_ok=True)
    for expert in range(N_EXPERT):
        data = bf16(random.standard_normal((ROWS, COLUMNS), dtype=np.float32))
        source.add(f"expert.{expert}", data, dtype="BF16", shard=SHARDS[expert % 3])
    source.add(
        "fp8", np.arange(128 * 256, dtype=np.uint8).reshape(128, 256) % 0x7F, dtype="F8_E4M3", shard="one"
    )
    source.add("fp8_scale", np.array([[0.5, 2.0]], np.float32), shard="three")
    source.add("norm", random.standard_normal(COLUMNS, dtype=np.float32), shard="two")
    return source


def make_tensors() -> tuple[TypedTensor, ...]:
    experts = [whole(f"expert.{e}", ROWS, target_row=e * ROWS, expert=e) for e in range(N_EXPERT)]
    scaled = Part(
        source="fp8",
        target_row=0,
        n_rows=128,
        encoding=Encoding.FP8_BLOCK,
        scale="fp8_scale",
        scale_block=(128, 128),
    )
    factors = TensorPlan(name="rope_freqs.weight", shape=(5,), values=np.arange(5, dtype=np.float32))
    return (
        typed("blk.0.ffn_up_exps.weight", (N_EXPERT, ROWS, COLUMNS), Q.Q4_K, *experts),
        TypedTensor(plan=factors, type=Q.F32, wanted=Q.F32),
        typed("blk.0.attn_q.weight", (128, 256), Q.Q8_0, scaled),
        typed("output_norm.weight", (COLUMNS,), Q.F32, whole("norm", 1)),
    )


def write(
    source: RawSource,
    target: Path,
    *,
    n_threads: int = 2,
    fingerprint: str = "fingerprint",
    imatrix: Imatrix | None = None,
    report: Report = lambda _: None,
) -> PartialGguf:
    return writer.write_gguf(
        target,
        metadata=METADATA,
        tensors=make_tensors(),
        source=source,
        imatrix=imatrix,
        n_threads=n_threads,
        fingerprint=fingerprint,
        report=report,
    )


def _tell(event: ConversionEvent) -> None:
    if isinstance(event, StageProgress):
        print(event.stage, event.done, event.total, flush=True)  # noqa: T201 - what the parent waits for


def _main(folder: str, target: str) -> None:
    pieces.PIECE_ELEMENTS = 1 << 15  # many pieces, and a journal that is written all the time
    writer._BATCH_BYTES, crew._TICK_S, meter._REPORT_S = 1, 0.005, 0
    source = make_source_description(Path(folder))
    part = write(source, Path(target), report=_tell)
    print("sha256", part.commit(), flush=True)  # noqa: T201
    part.close()


def make_source_description(folder: Path) -> RawSource:
    """Describe the checkpoint in `folder` without writing it again."""
    source = RawSource(folder, SHARDS)
    ends = dict.fromkeys(SHARDS, 0)

    def declare(name: str, dtype: str, shape: tuple[int, ...], n_bytes: int, shard: str) -> None:
        source.declare(name, dtype, shape, ends[shard], n_bytes, shard=shard)
        ends[shard] += n_bytes

    for expert in range(N_EXPERT):
        declare(f"expert.{expert}", "BF16", (ROWS, COLUMNS), 2 * ROWS * COLUMNS, SHARDS[expert % 3])
    declare("fp8", "F8_E4M3", (128, 256), 128 * 256, "one")
    declare("fp8_scale", "F32", (1, 2), 8, "three")
    declare("norm", "F32", (COLUMNS,), 4 * COLUMNS, "two")
    return source


if __name__ == "__main__":
    _main(*sys.argv[1:])
