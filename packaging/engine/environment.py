"""Bring .venv up to date: the engine wheel first, then edgeapp itself with the extras asked for.

Run by bootstrap.sh with .venv's own Python. When nothing has changed since the last time it does
nothing, so `make run` starts in a moment. What it depends on: the engine's build key, pyproject.toml
and the extras.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import engine_wheel
import failure
import flavour
import sdist
from failure import SetupError

if TYPE_CHECKING:
    from pathlib import Path

_VENV = sdist.PROJECT / ".venv"
_STAMP = _VENV / "edgeapp-environment.json"


@dataclass(frozen=True, kw_only=True)
class Installed:
    """What an environment holds. `engine` is the build key of its llama-cpp-python."""

    engine: str
    pyproject_sha256: str
    extras: tuple[str, ...]


def _main() -> None:
    parser = argparse.ArgumentParser(description="Bring .venv up to date.")
    parser.add_argument("--extras", required=True, help="comma-separated: demo,dev")
    parser.add_argument("--engine", choices=("auto", "cpu", "cuda"), default="auto")
    options = parser.parse_args()
    version = sdist.pinned_version()
    chosen = flavour.choose(options.engine)
    have = _read_stamp()
    kept_extras = have.extras if have else ()
    want = Installed(
        engine=chosen.key(version),
        pyproject_sha256=hashlib.sha256((sdist.PROJECT / "pyproject.toml").read_bytes()).hexdigest(),
        extras=tuple(sorted({*kept_extras, *options.extras.split(",")})),
    )
    if have != want:
        wheel = engine_wheel.ensure(chosen, version)
        _install(want, wheel=wheel, engine_changed=have is None or have.engine != want.engine)


def _install(want: Installed, *, wheel: Path, engine_changed: bool) -> None:
    _STAMP.unlink(missing_ok=True)  # an interrupted installation is done again
    sdist.require_pip()
    if engine_changed:
        # Before anything that depends on it, or pip would compile a second one on its own.
        _pip("Installing the engine", "--no-deps", "--force-reinstall", str(wheel))
    extras = ",".join(want.extras)
    _pip(f"Installing edgeapp [{extras}]", "--editable", f"{sdist.PROJECT}[{extras}]")
    _STAMP.write_text(json.dumps(asdict(want)))


def _read_stamp() -> Installed | None:
    try:
        fields = json.loads(_STAMP.read_text())
        return Installed(**(fields | {"extras": tuple(fields["extras"])}))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _pip(label: str, *arguments: str) -> None:
    print(label, file=sys.stderr)
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-qq", "install", *arguments]
    if subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode != 0:
        raise SetupError(
            f"{label} failed.",
            hint="pip's message above names the cause; check the network and the disk, then call make again",
        )


if __name__ == "__main__":
    failure.run(_main)
