"""Our placement against llama.cpp's `--fit`, for models of true shape, without a GPU and without weights.

    python -m benchmarks.placement              ask llama-fit-params now, print a table
    python -m benchmarks.placement --record     ask it for the whole matrix and write what the tests read

Both get the same card (a loopback device), budget and context, and both are measured with our price list for
a middling card: 400 GB/s, 20 TFLOPS, 20 GB/s from page-locked memory. Seconds are predicted, not measured;
`benchmarks.gpu` measures. Target: never slower, and a long prompt 1.3 times as fast when experts are in RAM.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks._fit_params import fit_choice, version
from edgeapp.placement.problem import make_problem
from tests.fake_gpu import fake_gpu
from tests.model_shapes import SHAPES, write_shape
from tests.placement.fit_cost import fit_candidate
from tests.placement.matrix import Needs, cases, machine, planned, probe_needs, read_shapes, wishes
from tests.placement.recorded_fit import CONTEXTS, VRAM_GIB, Case, FitChoice, write_record

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgeapp.placement.shape import ModelShape
    from tests.fake_gpu import FakeGpu

HEADS = ("model", "VRAM", "context", "experts in RAM, layers", "micro-batch", "load", "decode, tok/s")
GAINS = ("prefill 8k, tok/s", "request (8k + 256), s")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", action="store_true", help="write tests/placement/fit_params.json")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--vram", nargs="+", type=int, choices=VRAM_GIB, default=[8, 12, 24], help="GiB")
    parser.add_argument("--contexts", nargs="+", type=int, choices=CONTEXTS, default=[16384])
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    names = list(SHAPES) if arguments.record else arguments.shapes
    wanted = [case for name in names for case in cases(name)]
    if not arguments.record:
        wanted = [one for one in wanted if one.vram_gib in arguments.vram and one.n_ctx in arguments.contexts]
    with tempfile.TemporaryDirectory() as folder, fake_gpu(total_mib=max(VRAM_GIB) * 1024) as gpu:
        os.environ.update(gpu.environment)
        files = {name: write_shape(name, Path(folder, f"{name}.gguf")) for name in names}
        if arguments.record:
            write_record(dict(_choices(wanted, files, gpu)), build=version())
            return
        shapes = read_shapes(files)
        print(_table(wanted, shapes, probe_needs(files, shapes), dict(_choices(wanted, files, gpu))))


def _choices(
    wanted: Sequence[Case], files: dict[str, Path], gpu: FakeGpu
) -> Iterator[tuple[Case, FitChoice | None]]:
    for case in wanted:
        gpu.set_free(case.vram_gib * 1024)
        yield case, fit_choice(files[case.shape], endpoint=gpu.endpoint, n_ctx=case.n_ctx)


def _table(
    wanted: Sequence[Case],
    shapes: dict[str, ModelShape],
    needs: Needs,
    choices: dict[Case, FitChoice | None],
) -> str:
    heads = [*HEADS, *GAINS]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    lines += [_line(case, shapes[case.shape], needs, choices[case]) for case in wanted]
    return "\n".join([f"Each cell: edgeapp / --fit ({version()})", "", *lines])


def _line(case: Case, shape: ModelShape, needs: Needs, choice: FitChoice | None) -> str:
    need = needs[case.shape, case.n_ctx]
    made = planned(case, shape, need, "prefill")
    ours, n_all = made.predicted, len(shape.expert_layers)
    cells = [case.shape, f"{case.vram_gib} GiB", f"{case.n_ctx // 1024}k"]
    if choice is None:
        return f"| {' | '.join([*cells, f'{len(made.cpu_expert_layers)} of {n_all} / gave up'])} |"
    problem = make_problem(shape, machine(case.vram_gib), need, wishes(case.n_ctx, "prefill"))
    theirs = fit_candidate(case.shape, choice, problem)
    n_prompt = ours.prefill_tps * ours.ttft_s
    cells += [
        f"{len(made.cpu_expert_layers)} / {len(theirs.split.cpu_expert_layers)} of {n_all}",
        f"{made.n_ubatch} / {theirs.setting.n_ubatch}",
        f"{made.load_mode} / {theirs.setting.load_mode}",
        f"{ours.decode_tps:.0f} / {1 / theirs.decode.total_s:.0f}",
        _gain(ours.prefill_tps, n_prompt / theirs.prefill.total_s, theirs.prefill.total_s / ours.ttft_s),
        _gain(ours.request_s, theirs.request_s, theirs.request_s / ours.request_s),
    ]
    return f"| {' | '.join(cells)} |"


def _gain(ours: float, theirs: float, gain: float) -> str:
    return f"{ours:.3g} / {theirs:.3g} = {gain:.2f}×"


if __name__ == "__main__":
    main()
