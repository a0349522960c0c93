"""What llama.cpp's `--fit` chose for every shape, budget and context of the matrix.

`python -m benchmarks.placement --record` writes `fit_params.json` by asking `llama-fit-params`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

RECORD = Path(__file__).with_name("fit_params.json")
VRAM_GIB = (6, 8, 12, 16, 24)
CONTEXTS = (4096, 16384, 65536)
MARGIN_MIB = 1024
"""`--fit`'s default for what stays free on the device (common/common.h, fit_params_target)."""
N_UBATCH = 512
"""Its default micro-batch, which it never changes."""
_LAYER_PATTERN = re.compile(r"blk\\\.(\d+)\\\.(.+)")


class Case(NamedTuple):
    shape: str
    vram_gib: int
    n_ctx: int


@dataclass(frozen=True, kw_only=True)
class FitChoice:
    """`overrides` are (pattern, buffer), the first that matches wins. `n_gpu_layers` -1 is all."""

    n_ctx: int
    n_gpu_layers: int
    overrides: tuple[tuple[str, str], ...]


def read_record(path: Path = RECORD) -> dict[Case, FitChoice | None]:
    """Return the choice for each case; None where `--fit` gave up."""
    record: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return {Case(*row["case"]): _choice(row) for row in record["choices"]}


def _choice(row: dict[str, Any]) -> FitChoice | None:
    if "n_ctx" not in row:
        return None
    runs: list[tuple[int, int, str, str]] = row["overrides"]
    return FitChoice(
        n_ctx=row["n_ctx"],
        n_gpu_layers=row["n_gpu_layers"],
        overrides=tuple(
            (f"blk\\.{layer}\\.{tensors}", buffer)
            for first, last, tensors, buffer in runs
            for layer in range(first, last + 1)
        ),
    )


def write_record(choices: Mapping[Case, FitChoice | None], *, build: str, path: Path = RECORD) -> None:
    """Write a line for each case; overrides of neighbouring layers become [first, last, tensors, buffer]."""
    about = {
        "program": "llama-fit-params --swa-full",
        "build": build,
        "margin_mib": MARGIN_MIB,
        "n_ubatch": N_UBATCH,
    }
    lines = ",\n".join(json.dumps(_row(case, choice)) for case, choice in choices.items())
    path.write_text(f'{{"about": {json.dumps(about)},\n"choices": [\n{lines}\n]}}\n', "utf-8")


def _row(case: Case, choice: FitChoice | None) -> dict[str, Any]:
    if choice is None:
        return {"case": case}
    return {
        "case": case,
        "n_ctx": choice.n_ctx,
        "n_gpu_layers": choice.n_gpu_layers,
        "overrides": list(_runs(choice.overrides)),
    }


def _runs(overrides: Iterable[tuple[str, str]]) -> Iterable[tuple[int, int, str, str]]:
    parsed = [(*_split(pattern), buffer) for pattern, buffer in overrides]
    numbered = enumerate(parsed)
    for _, group in groupby(numbered, key=lambda item: (item[1][0] - item[0], *item[1][1:])):
        members = [override for _, override in group]
        yield members[0][0], members[-1][0], *members[0][1:]


def _split(pattern: str) -> tuple[int, str]:
    match = _LAYER_PATTERN.fullmatch(pattern)
    assert match is not None, f"--fit names no single layer in {pattern}"
    return int(match[1]), match[2]
