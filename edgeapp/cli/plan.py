"""`edgeapp plan`: say where a model would go on this machine, how fast it would be, and why."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import click

from edgeapp import catalog
from edgeapp.cli.json_errors import json_errors
from edgeapp.cli.placement_flags import placement_flags, workload_flag
from edgeapp.cli.placement_wishes import wishes_of
from edgeapp.config import load_settings

if TYPE_CHECKING:
    from edgeapp.runtime.planning import Planned

_EPILOG = """\b
Examples:
  edgeapp plan model.gguf                         where it goes here, and why
  edgeapp plan model.gguf --ctx 32768             the same with a longer context
  edgeapp plan model.gguf --max-vram 8G           as if the GPU had 8 GiB to spare
  edgeapp plan model.gguf --cpu-experts 36        keep 36 layers' experts in host memory
  edgeapp plan model.gguf --for prefill           for long prompts and short answers
  edgeapp plan model.gguf --json | jq .predicted
"""


@click.command(epilog=_EPILOG)
@click.argument("model", required=False)
@workload_flag
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; sizes are bytes.")
@placement_flags
def command(model: str | None, workload: str, *, as_json: bool, **flags: Any) -> None:
    """Say where MODEL would go: what is on the GPU, what in host memory, how fast it would be, and why.

    MODEL is a .gguf file, a catalog name, or nothing for the embedded demo. Nothing is loaded and nothing is
    downloaded. What you ask for is kept and the rest is fitted around it: a context is never made smaller.
    """
    with json_errors(as_json=as_json):
        wishes = wishes_of(load_settings(flags), workload=workload)
        path = catalog.resolve_local(catalog.DEMO if model is None else model)
        from edgeapp.runtime.planning import planned

        made = asyncio.run(planned(path, wishes))
        if as_json:
            click.echo(json.dumps(plan_json(made), indent=2))
            return
        from edgeapp.cli.plan_tables import print_plan

        print_plan(made)


def plan_json(made: Planned) -> dict[str, Any]:
    """Return the plan as one object; sizes in bytes, rates in tokens per second."""
    from dataclasses import asdict

    from edgeapp.placement.what_if import what_if

    plan, fields = made.plan, asdict(made.plan)
    return {
        "model": str(made.info.path),
        **fields,
        "threads": plan.n_threads,
        "reasons": list(plan.reasons),
        "device_name": made.machine.device.description if made.machine.device else "",
        "is_measured": made.machine.is_measured,
        "fallbacks": [step.reason for step in made.fallbacks],
        "what_if": [asdict(row) for row in what_if(made.shape, made.machine, made.compute, made.wishes)],
    }
