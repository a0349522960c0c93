"""`edgeapp doctor`: print what `edgeapp.doctor` found."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from edgeapp import doctor

if TYPE_CHECKING:
    from collections.abc import Sequence

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}
_EPILOG = """\b
Examples:
  edgeapp doctor           look at everything
  edgeapp doctor --json    the same for a program or a bug report
"""


@click.command(epilog=_EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list of {check, level, found, fix}.")
def command(*, as_json: bool) -> None:
    """Check this machine and say how to fix what is missing.

    Looks at Python, the engine, GPU and driver, CUDA toolkit, memory, disk, folders, terminal, demo model
    and hub. Exit status 1 when something must be fixed before edgeapp can run, else 0.
    """
    findings: list[doctor.Finding] = []
    for finding in doctor.examine():
        findings.append(finding)
        if not as_json:
            _print(finding)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        click.echo(_summary(findings))
    if any(finding.level == "fail" for finding in findings):
        sys.exit(1)


def _print(finding: doctor.Finding) -> None:
    level = click.style(f"{finding.level:<4}", fg=_COLOURS[finding.level])
    click.echo(f"{level}  {finding.check:<14} {finding.found}")
    if finding.fix:
        click.echo(f"{'':<21}→ {finding.fix}")


def _summary(findings: Sequence[doctor.Finding]) -> str:
    count = Counter(finding.level for finding in findings)
    if count["fail"]:
        return f"\n{count['fail']} to fix, {count['warn']} to look at."
    return f"\n{count['warn']} to look at; edgeapp can run." if count["warn"] else "\nEverything is fine."
