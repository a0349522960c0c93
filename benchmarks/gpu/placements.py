"""The two placements as llama-server's options: edgeapp's plan, and `--fit` left to itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

RESERVE = "1G"
"""What `--fit` leaves free by default; edgeapp is told the same."""
_LOAD_MODES = {"mmap": "auto", "none": "none"}


def edgeapp_plan(model: Path, n_ctx: int, *, workload: str, environment: dict[str, str]) -> dict[str, Any]:
    """Return what `edgeapp plan --json` says. A failing command ends the benchmark with its message."""
    command = [sys.executable, "-m", "edgeapp", "plan", str(model), "--ctx", str(n_ctx)]
    command += ["--reserve", RESERVE, "--for", workload, "--json"]
    ended = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"edgeapp plan ended with {ended.returncode}: {ended.stdout}{ended.stderr}")
    made: dict[str, Any] = json.loads(ended.stdout)
    return made


def plan_options(made: dict[str, Any]) -> list[str]:
    """Return the options that make llama-server place a model as the plan says, and fit nothing itself."""
    options = ["--fit", "off", "-c", str(made["n_ctx"]), "-ngl", str(made["n_gpu_layers"])]
    options += ["-b", str(made["n_batch"]), "-ub", str(made["n_ubatch"]), "-fa", made["flash_attn"]]
    options += ["-ctk", made["kv_type"], "-ctv", made["kv_type"], "-t", str(made["threads"])]
    options += ["-lm", _LOAD_MODES[made["load_mode"]]]
    overrides = [f"{one['pattern']}={one['buffer']}" for one in made["tensor_overrides"]]
    return [*options, *(["-ot", ",".join(overrides)] if overrides else [])]


def fit_options(n_ctx: int) -> list[str]:
    """Return the options of somebody who only asks for a context."""
    return ["-c", str(n_ctx)]
