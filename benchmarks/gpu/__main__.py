"""Our placement against llama.cpp's `--fit`, on a real GPU made as small as a consumer's.

    python -m benchmarks.gpu --sources SOURCES.tar.gz --work FOLDER      build, write, measure, print
    python -m benchmarks.gpu --backend cpu --models tiny --cards 1.1 …   try it without a GPU

Needs cmake, a C++ compiler, nvcc and edgeapp's Python packages; no network. `SOURCES` is an sdist of
llama-cpp-python or what `python -m benchmarks.gpu.sources` made of it (7 MB). A step is skipped when what it
makes is in the work folder. Both placements run in the same llama-server, so a difference is the placement's.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.gpu.build import build, lend_libraries
from benchmarks.gpu.cards import Card, cuda_card, loopback_card
from benchmarks.gpu.placements import edgeapp_plan, fit_options, plan_options
from benchmarks.gpu.results import Result, Results, table
from benchmarks.gpu.serving import N_ANSWER, Run, serve
from benchmarks.gpu.sources import unpack
from benchmarks.gpu.weights import shape_of, size_bytes, write_random

if TYPE_CHECKING:
    from collections.abc import Iterator

_GIB = 1 << 30
_WORKLOADS = ("chat", "prefill")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--sources", type=Path, required=True, help="sdist, or its trimmed form")
    parser.add_argument("--work", type=Path, required=True, help="folder for everything that is made")
    parser.add_argument(
        "--models", default="qwen3-30b-a3b,gpt-oss-20b", help="names of tests.model_shapes, or tiny"
    )
    parser.add_argument("--layers", type=int, default=0, help="keep only so many layers; 0 keeps all")
    parser.add_argument("--cards", default="8,12,16,24", help="free VRAM in GiB")
    parser.add_argument("--ctx", type=int, default=20480)
    parser.add_argument("--prompts", default="512,4096,16384", help="lengths in tokens")
    parser.add_argument("--disk-gib", type=float, default=40, help="most that models may take together")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    arguments.work.mkdir(parents=True, exist_ok=True)
    root = unpack(arguments.sources, arguments.work)
    programs = build(root, arguments.work / f"build-{arguments.backend}", arguments.backend)
    lend_libraries(programs)
    results = Results(arguments.work / "results.jsonl")
    for name, model in _models(arguments):
        for gib in map(float, arguments.cards.split(",")):
            card_mib = round(gib * 1024)
            _compare(arguments, name, model, card_mib=card_mib, programs=programs, results=results)
    print(table(results.all))


def _models(arguments: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """Write the models that fit on the disk, one after the other."""
    left_bytes = arguments.disk_gib * _GIB
    for name in arguments.models.split(","):
        shape = shape_of(name, n_layer=arguments.layers)
        left_bytes -= size_bytes(shape)
        if left_bytes < 0:
            print(f"{name} is left out: {size_bytes(shape) / _GIB:.1f} GiB have no room", file=sys.stderr)
            return
        label = f"{name}-{arguments.layers}-layers" if arguments.layers else name
        yield label, write_random(label, shape, arguments.work / f"{label}.gguf")


def _compare(
    arguments: argparse.Namespace, name: str, model: Path, *, card_mib: int, programs: Path, results: Results
) -> None:
    placements = ["--fit", *(f"edgeapp, {workload}" for workload in _WORKLOADS)]
    missing = [one for one in placements if not results.has(name, card_mib, arguments.ctx, one)]
    if not missing:
        return
    make_card = cuda_card if arguments.backend == "cuda" else loopback_card
    with make_card(card_mib, programs) as card:
        for placement in missing:
            print(f"{name}, {card.free_mib} MiB free, {placement}", file=sys.stderr)
            options, about = _options(placement, model, arguments.ctx, card)
            command = [
                str(programs / "llama-server"),
                "-m",
                str(model),
                "-np",
                "1",
                *card.server_options,
                *options,
            ]
            runs = serve(
                command,
                [n for n in map(int, arguments.prompts.split(",")) if n + N_ANSWER < arguments.ctx],
                log=arguments.work / "llama-server.log",
                environment={},
            )
            key = (name, card_mib, arguments.ctx, placement)
            results.add([_result(key, run, about) for run in runs])


def _options(placement: str, model: Path, n_ctx: int, card: Card) -> tuple[list[str], str]:
    if placement == "--fit":
        return fit_options(n_ctx), "--fit"
    workload = placement.removeprefix("edgeapp, ")
    made = edgeapp_plan(model, n_ctx, workload=workload, environment=card.environment)
    return plan_options(made), made["reasons"][0]


def _result(key: tuple[str, int, int, str], run: Run, about: str) -> Result:
    model, card_mib, n_ctx, placement = key
    return Result(
        model=model,
        card_mib=card_mib,
        n_ctx=n_ctx,
        placement=placement,
        n_prompt=run.n_prompt,
        prefill_tps=run.prefill_tps,
        decode_tps=run.decode_tps,
        event=run.event,
        about=about,
    )


if __name__ == "__main__":
    main()
