"""Loss and size of every recipe, and of --fit, beside llama-quantize's files of the same model.

The model is the demo MoE. Its source was 4-bit itself, and its experts are copies, so this ranks ways of
spending bits, not 4-bit types. Everything is measured against the same F16 GGUF, on the same text.
Target: lower KL divergence than the peer's file of equal size; --fit below every recipe of equal size.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks._engines import machine, n_threads, peer
from edgeapp.cli.conversion_source import upcycled_checkpoint
from edgeapp.gguf_info import read_gguf_info
from edgeapp_converters import imatrix, retention, texts
from edgeapp_converters.budget import Budget
from edgeapp_converters.opening import open_model
from edgeapp_converters.pipeline import ConversionOptions, convert
from edgeapp_converters.quality import measure_quality
from edgeapp_converters.recipe import load_recipe

if TYPE_CHECKING:
    from edgeapp_converters.events import ConversionEvent
    from edgeapp_converters.quality import QualityReport

RECIPES = ("q8_0", "moe4", "moe4-small", "moe3")
"""Those by llama.cpp's own rule are the peer's files, bit for bit."""
PEERS = ("Q4_K_M", "IQ4_XS")
WITH_TASK = ("q8_0", "moe4", "llama-quantize Q4_K_M")
"""The promise (98.7 % of the base's score kept) is measured for the floor, the default and the peer."""


@dataclass(frozen=True, kw_only=True)
class Row:
    name: str
    n_bytes: int
    tensor_bytes: int
    quality: QualityReport


def main() -> None:
    options = _arguments()
    machine()
    checkpoint = upcycled_checkpoint("smollm2-135m", report=_silent)
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        bench = Bench(checkpoint, Path(scratch), max_tokens=options.max_tokens, with_task=not options.no_task)
        _print(bench.rows())


class Bench:
    """Makes the files one after the other, measures each, keeps none."""

    def __init__(self, checkpoint: Path, scratch: Path, *, max_tokens: int | None, with_task: bool) -> None:
        self._checkpoint = checkpoint
        self._scratch = scratch
        self._max_tokens = max_tokens
        self._task = retention.bundled_task() if with_task else None
        self._text = texts.find(texts.EVALUATION)
        self._base = self._make("f16", keep=True)
        self._importance = scratch / "importance.gguf"

    def rows(self) -> list[Row]:
        rows = [self._measured(recipe, self._make(recipe)) for recipe in RECIPES]
        rows += [self._measured(f"llama-quantize {kind}", self._peer(kind)) for kind in PEERS]
        self._collect()
        for recipe in ("moe4", "moe4-small", "q4_k_m", "iq4_xs"):
            made = self._make(recipe, with_importance=True)
            rows.append(self._measured(f"{recipe} + imatrix", made))
        importance = ("--imatrix", str(self._importance))
        rows.append(self._measured("llama-quantize Q4_K_M + imatrix", self._peer("Q4_K_M", *importance)))
        # How much of a difference is the embedding alone, which is also this model's output.
        made = self._peer("Q4_K_M", *importance, "--token-embedding-type", "q8_0")
        rows.append(self._measured("  the same, embedding Q8_0", made))
        sizes = {row.name: row.tensor_bytes for row in rows}
        peers = ("llama-quantize Q4_K_M + imatrix", "iq4_xs + imatrix")
        for name in (*peers, "moe4 + imatrix", "moe4-small + imatrix"):
            made = self._make("moe4", with_importance=True, budget_bytes=sizes[name])
            rows.append(self._measured(f"--fit at the size of {name}", made))
        return rows

    def _collect(self) -> None:
        subprocess.run(
            [
                str(peer("llama-imatrix")), "-m", str(self._make("q8_0")), "-o", str(self._importance),
                "-f", str(self._calibration()), "-c", "512", "-t", str(n_threads()),
            ],
            check=True,
            capture_output=True,
        )  # fmt: skip

    def _calibration(self) -> Path:
        path = self._scratch / "calibration.txt"
        path.write_text(texts.find(texts.ALL).text)
        return path

    def _make(
        self,
        recipe: str,
        *,
        keep: bool = False,
        with_importance: bool = False,
        budget_bytes: int | None = None,
    ) -> Path:
        target = self._scratch / ("base.gguf" if keep else "quant.gguf")
        opened = open_model(self._checkpoint, report=_silent)
        try:
            wanted = ConversionOptions(
                recipe=load_recipe(recipe),
                n_threads=n_threads(),
                imatrix=imatrix.read(self._importance).shrunk() if with_importance else None,
                budget=Budget(file_bytes=budget_bytes, reason="") if budget_bytes else None,
            )
            convert(opened, target, wanted, report=_silent)
        finally:
            opened.source.close()
        return target

    def _peer(self, kind: str, *options: str) -> Path:
        """llama-quantize writes the same target again."""
        target = self._scratch / "quant.gguf"
        command = [str(peer("llama-quantize")), *options, str(self._base), str(target), kind]
        subprocess.run(command, check=True, capture_output=True)
        return target

    def _measured(self, name: str, made: Path) -> Row:
        quality = asyncio.run(
            measure_quality(
                self._base,
                made,
                self._text.text,
                text_name=self._text.name,
                max_tokens=self._max_tokens,
                task=self._task if name in WITH_TASK else None,
                n_threads=n_threads(),
                report=_silent,
            )
        )
        info = read_gguf_info(made)
        row = Row(name=name, n_bytes=info.file_bytes, tensor_bytes=info.tensor_bytes, quality=quality)
        print(f"  measured {name}: KLD {quality.kld_mean:.4f}", flush=True)
        return row


def _print(rows: list[Row]) -> None:
    reference = next(row for row in rows if row.name == "llama-quantize Q4_K_M")
    head = f"{'file':<46} {'MB':>6} {'bpw':>5} {'KLD mean':>9} {'99.9 %':>7} {'top-1':>6} {'task':>6}"
    print(f"\n{head} {'÷ Q4_K_M':>13}")
    for row in rows:
        found = row.quality
        kept = f"{found.retention:.1%}" if found.retention is not None else "-"
        print(
            f"{row.name:<46} {row.n_bytes / 1e6:6.1f} {found.quant_bpw:5.2f} {found.kld_mean:9.4f} "
            f"{found.kld_p999:7.3f} {found.top1_agreement:6.1%} {kept:>6} "
            f"{found.kld_mean / reference.quality.kld_mean:12.3f}×"
        )
    first = rows[0].quality
    print(f"text: {first.text_name}, {first.n_tokens} tokens scored; top-1 interval of the last row ", end="")
    print(f"{rows[-1].quality.top1_ci[0]:.1%} to {rows[-1].quality.top1_ci[1]:.1%}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--max-tokens", type=int, default=2048, help="of the text (default: 2048)")
    parser.add_argument("--no-task", action="store_true", help="leave out the multiple-choice task")
    parser.add_argument("--scratch", type=Path, help="folder for 1.7 GB of files (default: the system's)")
    return parser.parse_args()


def _silent(_event: ConversionEvent) -> None:
    pass


if __name__ == "__main__":
    main()
