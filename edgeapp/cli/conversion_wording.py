"""How a conversion and its measured loss are told: rows for people, objects for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.cleantext import clean_line
from edgeapp.cli.download_progress import describe_bytes

if TYPE_CHECKING:
    from edgeapp_converters.quality import QualityReport
    from edgeapp_converters.recipe import RecipeSummary


def summary_object(summary: RecipeSummary) -> dict[str, object]:
    """Return size and types for --json."""
    return {
        "parameters": summary.parameters,
        "tensor_bytes": summary.n_bytes,
        "bits_per_weight": round(summary.bits_per_weight, 4),
        "tensor_types": summary.types,
        "fallbacks": [
            {"tensor": fallback.name, "wanted": fallback.wanted, "got": fallback.got}
            for fallback in summary.fallbacks
        ],
    }


def summary_rows(summary: RecipeSummary) -> list[tuple[str, str]]:
    """Return size and types for people."""
    types = ", ".join(f"{name} {count / summary.parameters:.1%}" for name, count in summary.types.items())
    rows = [
        ("size", f"{describe_bytes(summary.n_bytes)}, {summary.bits_per_weight:.2f} bits per weight"),
        ("types", f"{types} of the weights"),
    ]
    if summary.fallbacks:
        first = summary.fallbacks[0]
        rows.append(
            (
                "fallbacks",
                f"{len(summary.fallbacks)} tensors could not have the type asked for, such as "
                + clean_line(f"{first.name}: {first.got} instead of {first.wanted}"),
            )
        )
    return rows


def quality_rows(quality: QualityReport, *, base: str) -> list[tuple[str, str]]:
    """Return what a measurement found, for people."""
    low, high = quality.top1_ci
    rows = [
        ("compared with", f"{base}, {quality.n_tokens:,} tokens"),
        ("KL divergence", f"mean {quality.kld_mean:.4f}, 99.9 % of tokens below {quality.kld_p999:.3f}"),
        ("same top token", f"{quality.top1_agreement:.1%} (95 % interval {low:.1%} to {high:.1%})"),
        ("perplexity", f"{quality.ppl_quant:.3f}, {quality.ppl_ratio:.4f} times the base's"),
    ]
    if quality.retention is not None and quality.retention_ci is not None:
        low, high = quality.retention_ci
        interval = f"95 % interval {low:.1%} to {high:.1%}, {quality.task_items} items"
        rows.append(("task score kept", f"{quality.retention:.1%} ({interval})"))
    return rows
