"""What llama.cpp's `--fit` would choose, asked of `llama-fit-params`."""

from __future__ import annotations

import shlex
import subprocess
from typing import TYPE_CHECKING

from benchmarks._engines import peer
from tests.placement.recorded_fit import MARGIN_MIB, N_UBATCH, FitChoice

if TYPE_CHECKING:
    from pathlib import Path


def fit_choice(model: Path, *, endpoint: str, n_ctx: int) -> FitChoice | None:
    """Run it for the device at `endpoint`; None when it gives up.

    `--swa-full` as in our engine: a conversation can be cut back anywhere, whatever the model's window.
    """
    command = [
        str(peer("llama-fit-params")), "-m", str(model), "-c", str(n_ctx), "-ub", str(N_UBATCH),
        "-fitt", str(MARGIN_MIB), "--swa-full", "--rpc", endpoint,
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return parse(ended.stdout) if ended.returncode == 0 and ended.stdout.strip() else None


def parse(printed: str) -> FitChoice:
    r"""Read its last line, `-c 4096 -ngl 49 -ot "blk\.3\.ffn_…=CPU,…"`; `-ot` stands where it is needed."""
    words = shlex.split(printed.splitlines()[-1])
    options = dict(zip(words[::2], words[1::2], strict=True))
    given = [item.rsplit("=", 1) for item in options.get("-ot", "").split(",") if item]
    overrides = tuple((pattern, buffer) for pattern, buffer in given)
    return FitChoice(n_ctx=int(options["-c"]), n_gpu_layers=int(options["-ngl"]), overrides=overrides)


def version() -> str:
    """Return the line that says which build of llama.cpp answers."""
    command = [str(peer("llama-fit-params")), "--version"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    return (ended.stdout or ended.stderr).splitlines()[0]
