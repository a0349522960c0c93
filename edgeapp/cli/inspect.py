"""`edgeapp inspect`: say what a GGUF file is, without loading its weights."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from edgeapp import catalog
from edgeapp.cleantext import clean_line
from edgeapp.cli.download_progress import describe_bytes
from edgeapp.cli.table import print_rows
from edgeapp.gguf_info import read_gguf_info

if TYPE_CHECKING:
    from edgeapp.gguf_info import GgufInfo

_EPILOG = """\b
Examples:
  edgeapp inspect ./model.gguf               what it is, in a table
  edgeapp inspect demo --json                the same for programs
"""
_NOT_STATED = "not stated in the file"


@click.command(epilog=_EPILOG)
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(model: str, *, as_json: bool) -> None:
    """Say what MODEL is, without loading its weights.

    MODEL is the path of a .gguf file (any part of a split), a catalog name, or a model of the hub that has
    been downloaded. Nothing is downloaded here.
    """
    info = read_gguf_info(catalog.resolve_local(model))
    if as_json:
        click.echo(json.dumps(as_json_object(info), indent=2))
        return
    print_rows(_rows(info))


def as_json_object(info: GgufInfo) -> dict[str, Any]:
    """Return the fields of `info` under their own names; tensor types and sampling are keyed by name."""
    shares = {
        share.name: {"count": share.count, "parameters": share.parameters, "bytes": share.bytes}
        for share in info.tensor_types
    }
    return asdict(info) | {
        "path": str(info.path),
        "parts": [str(part) for part in info.parts],
        "tensor_types": shares,
        "sampling": dict(info.sampling),
        "conversion": dict(info.conversion),
        "is_split": info.is_split,
    }


def _rows(info: GgufInfo) -> list[tuple[str, str]]:
    rows = [
        ("file", clean_line(str(info.path), max_chars=300)),
        ("name", info.name or _NOT_STATED),
        ("architecture", info.arch),
        ("parameters", _describe_parameters(info)),
        ("experts", f"{info.n_expert_used} of {info.n_expert} used" if info.is_moe else "dense"),
        ("layers", f"{info.n_layer}, embedding {info.n_embd}, heads {info.n_head} (KV {info.n_head_kv})"),
        ("size", _describe_size(info)),
        ("bits per weight", f"{info.bits_per_weight:.2f}"),
        ("tensor types", _describe_types(info)),
        ("context", f"{info.n_ctx_train:,} tokens trained{_describe_kv(info)}"),
        ("tokenizer", _describe_tokenizer(info)),
        ("chat template", "yes" if info.has_chat_template else "no"),
        ("licence", info.license or _NOT_STATED),
        ("author", info.author or _NOT_STATED),
        ("source", info.source or _NOT_STATED),
    ]
    if info.sampling:
        rows.append(("sampling", ", ".join(f"{name} {_short(value)}" for name, value in info.sampling)))
    return rows + _conversion_rows(dict(info.conversion))


def _conversion_rows(facts: dict[str, int | float | str]) -> list[tuple[str, str]]:
    """What edgeapp wrote about the conversion, and about the loss where it was measured."""
    if "recipe" not in facts:
        return []
    rows = [("converted by", f"edgeapp {facts.get('version', '')}, recipe {facts['recipe']}")]
    if "calibration.text" in facts:
        rows.append(("calibrated on", str(facts["calibration.text"])))
    return rows + _quality_rows(facts)


def _quality_rows(facts: dict[str, int | float | str]) -> list[tuple[str, str]]:
    numbers = {key: value for key, value in facts.items() if not isinstance(value, str)}
    measured = [numbers.get(f"quality.{name}") for name in ("kld_mean", "kld_p999", "top1_agreement")]
    if None in measured:
        return []
    against = f"{facts.get('quality.base', '')} on {facts.get('quality.text', '')}"
    rows = [
        ("measured against", f"{against}, {facts.get('quality.n_tokens', '?')} tokens"),
        ("KL divergence", f"mean {measured[0]:.4f}, 99.9 % below {measured[1]:.3f}"),
        ("same top token", f"{measured[2]:.1%}"),
    ]
    if "quality.retention" in numbers:
        kept = f"{numbers['quality.retention']:.1%} of {facts.get('quality.task', 'the task')}"
        rows.append(("task score kept", kept))
    return rows


def _describe_parameters(info: GgufInfo) -> str:
    total = _short_count(info.parameters)
    return f"{total}, {_short_count(info.active_parameters)} active per token" if info.is_moe else total


def _describe_size(info: GgufInfo) -> str:
    size = describe_bytes(info.file_bytes)
    return f"{size} in {len(info.parts)} parts" if info.is_split else size


def _describe_types(info: GgufInfo) -> str:
    shares = (f"{share.name} {share.bytes / info.tensor_bytes:.1%}" for share in info.tensor_types)
    called = f" (the file says: {info.quantization})" if info.quantization else ""
    return ", ".join(shares) + called


def _describe_kv(info: GgufInfo) -> str:
    if info.kv_bytes_per_token is None:
        return ""
    return f", KV cache {info.kv_bytes_per_token / 1024:.1f} KiB per token in F16"


def _describe_tokenizer(info: GgufInfo) -> str:
    pre = f" ({info.tokenizer_pre})" if info.tokenizer_pre else ""
    return f"{info.tokenizer}{pre}, {info.n_vocab:,} tokens"


def _short_count(count: int) -> str:
    """Three digits and a unit, as model cards write it."""
    for unit, scale in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if count >= scale:
            value = count / scale
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"  # noqa: PLR2004 - digits
    return str(count)


def _short(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else clean_line(str(value))
