"""What has been measured, one JSON line each, and the table made of it. Nothing is measured twice."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Result:
    """One prompt in one placement. `event` is empty when all went well."""

    model: str
    card_mib: int
    n_ctx: int
    placement: str
    n_prompt: int
    prefill_tps: float
    decode_tps: float
    event: str
    about: str
    """The plan in a sentence, or the options."""


class Results:
    """A file of results."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        self.all = [Result(**json.loads(line)) for line in lines]

    def has(self, model: str, card_mib: int, n_ctx: int, placement: str) -> bool:
        wanted = (model, card_mib, n_ctx, placement)
        return any((one.model, one.card_mib, one.n_ctx, one.placement) == wanted for one in self.all)

    def add(self, results: Sequence[Result]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(result)) + "\n" for result in results)
        self.all += results


def table(results: Sequence[Result]) -> str:
    """Return Markdown: one line for each model, card and placement."""
    n_prompts = sorted({result.n_prompt for result in results if result.n_prompt})
    heads = ["model", "free VRAM", "context", "placement", *(f"prefill {n}, tok/s" for n in n_prompts)]
    heads += ["decode, tok/s", "events"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for key, group in groupby(results, key=lambda one: (one.model, one.card_mib, one.n_ctx, one.placement)):
        lines.append(_line(key, list(group), n_prompts))
    return "\n".join(lines)


def _line(key: tuple[str, int, int, str], group: Sequence[Result], n_prompts: Sequence[int]) -> str:
    model, card_mib, n_ctx, placement = key
    prefill = {one.n_prompt: f"{one.prefill_tps:.0f}" for one in group if one.prefill_tps}
    decode = [one.decode_tps for one in group if one.decode_tps]
    cells = [model, f"{card_mib / 1024:.3g} GiB", str(n_ctx), placement]
    cells += [prefill.get(n_prompt, "-") for n_prompt in n_prompts]
    cells += [f"{decode[0]:.1f}" if decode else "-", "; ".join(filter(None, (one.event for one in group)))]
    return "| " + " | ".join(cells) + " |"
