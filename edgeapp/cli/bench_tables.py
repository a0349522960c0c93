"""What `edgeapp bench` prints: the speed of a model, or a table of numbers of experts; both as JSON too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from edgeapp.cleantext import clean_line
from edgeapp.cli.download_progress import describe_bytes
from edgeapp.cli.table import print_columns, print_rows

if TYPE_CHECKING:
    from edgeapp.bench.expert_counts import CountResult
    from edgeapp.bench.speed import Rate, Speed
    from edgeapp.gguf_info import GgufInfo
    from edgeapp.protocol import Load, Loaded


@dataclass(frozen=True, kw_only=True)
class SpeedReport:
    """How fast one model is, as it was loaded."""

    info: GgufInfo
    load: Load
    loaded: Loaded
    speed: Speed

    def as_json(self) -> dict[str, Any]:
        """Return one flat object; rates are tokens per second."""
        return {
            "model": str(self.info.path),
            "n_threads": self.loaded.n_threads,
            "n_gpu_layers": self.load.n_gpu_layers,
            "cpu_experts": bool(self.load.tensor_overrides),
            "load_s": self.loaded.load_s,
            **_speed_json(self.speed),
        }

    def print(self) -> None:
        speed = self.speed
        print_rows(
            [
                ("model", _model(self.info)),
                ("threads", str(self.loaded.n_threads)),
                ("GPU", _gpu(self.load)),
                ("load", f"{self.loaded.load_s:.1f} s"),
                ("prefill", f"{_rate(speed.prefill)}, {speed.n_prompt_tokens} tokens read"),
                ("decode", f"{_rate(speed.decode)}, {speed.n_decode_tokens} tokens written"),
                ("first token", f"after {speed.ttft_s * 1000:.0f} ms"),
            ]
        )
        click.echo(f"\nMedian of {speed.n_repeats} repeats, slowest and fastest in brackets.")


@dataclass(frozen=True, kw_only=True)
class CountsReport:
    """Speed against loss for several numbers of active experts."""

    info: GgufInfo
    text_name: str
    results: tuple[CountResult, ...]

    def as_json(self) -> dict[str, Any]:
        """Return an object whose `counts` has one entry per number; the trained one has no loss to itself."""
        return {
            "model": str(self.info.path),
            "n_expert": self.info.n_expert,
            "n_expert_used": self.info.n_expert_used,
            "text": self.text_name,
            "counts": [_count_json(result, n_tokens=self._n_tokens) for result in self.results],
        }

    @property
    def _n_tokens(self) -> int:
        return max((result.loss.n_tokens for result in self.results if result.loss), default=0)

    def print(self) -> None:
        click.echo(_model(self.info))
        click.echo()
        header = ("experts", "decode", "prefill", "KL divergence", "same top token")
        trained = next(result.speed for result in self.results if result.loss is None)
        print_columns([header, *(_count_row(result, trained=trained) for result in self.results)])
        first = self.results[0].speed
        click.echo(
            f"\nTokens per second, median of {first.n_repeats}: {first.n_prompt_tokens} read, "
            f"{first.n_decode_tokens} written."
        )
        if self._n_tokens:
            click.echo(
                f"Loss against the trained {self.info.n_expert_used} experts on {self._n_tokens:,} tokens of "
                f"{clean_line(self.text_name, max_chars=80)}, with 95 % intervals."
            )


def _speed_json(speed: Speed) -> dict[str, Any]:
    return {
        "decode_tps": speed.decode.median_tps,
        "decode_tps_min": speed.decode.min_tps,
        "decode_tps_max": speed.decode.max_tps,
        "prefill_tps": speed.prefill.median_tps,
        "prefill_tps_min": speed.prefill.min_tps,
        "prefill_tps_max": speed.prefill.max_tps,
        "ttft_s": speed.ttft_s,
        "n_prompt_tokens": speed.n_prompt_tokens,
        "n_decode_tokens": speed.n_decode_tokens,
        "n_repeats": speed.n_repeats,
    }


def _count_json(result: CountResult, *, n_tokens: int) -> dict[str, Any]:
    loss = result.loss
    measured = {
        "kld": loss.kld if loss else 0.0,
        "kld_ci": loss.kld_ci if loss else None,
        "same_top1": loss.same_top1 if loss else 1.0,
        "same_top1_ci": loss.same_top1_ci if loss else None,
        "n_tokens": loss.n_tokens if loss else n_tokens,
    }
    return {"experts": result.experts, "is_trained": loss is None, **_speed_json(result.speed), **measured}


def _count_row(result: CountResult, *, trained: Speed) -> tuple[str, ...]:
    loss = result.loss
    if loss is None:
        kld, same = "as trained", ""
    else:
        kld = f"{loss.kld:.4f} ({loss.kld_ci[0]:.4f} to {loss.kld_ci[1]:.4f})"
        same = f"{loss.same_top1:.1%} ({loss.same_top1_ci[0]:.1%} to {loss.same_top1_ci[1]:.1%})"
    speed = result.speed
    rates = _compared(speed.decode, trained.decode), _compared(speed.prefill, trained.prefill)
    return (str(result.experts), *rates, kld, same)


def _compared(rate: Rate, trained: Rate) -> str:
    """Return tokens per second, and how many times the trained number's that is."""
    if rate is trained or not trained.median_tps:
        return f"{rate.median_tps:.1f}"
    return f"{rate.median_tps:.1f} ({rate.median_tps / trained.median_tps:.2f}×)"


def _model(info: GgufInfo) -> str:
    experts = f", {info.n_expert_used} of {info.n_expert} experts" if info.is_moe else ""
    return f"{clean_line(info.path.name, max_chars=60)}, {describe_bytes(info.file_bytes)}{experts}"


def _gpu(load: Load) -> str:
    if not load.n_gpu_layers:
        return "not used"
    return "always-active tensors" if load.tensor_overrides else "all layers"


def _rate(rate: Rate) -> str:
    return f"{rate.median_tps:.1f} tokens/s ({rate.min_tps:.1f} to {rate.max_tps:.1f})"
