"""Read a checkpoint's config.json, bounded, and decide whether its weights can be read. Knows no family."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeapp.cleantext import clean_line
from edgeapp.errors import InvalidCheckpoint, UnsupportedCheckpoint
from edgeapp_converters.safetensors import parse_object
from edgeapp_converters.small_files import read_small_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

CONFIG = "config.json"
_MAX_CONFIG_BYTES = 16 << 20
_MAX_DEPTH = 32
_MAX_INT64 = (1 << 63) - 1
_LARGEST = {
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers"), 1024),
    **dict.fromkeys(
        ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_experts_per_tok"),
        4096,
    ),
    "vocab_size": 4_000_000,
}
"""Above these a number is damage or an attempt to exhaust memory, not a model."""
_READABLE_QUANTISATIONS = {"fp8", "mxfp4"}
"""What `plan.Encoding` can express."""


def read_config(folder: Path) -> dict[str, Any]:
    """Return config.json of `folder`.

    Raise `InvalidCheckpoint` when it is missing, too long, no object, nested too deep, or holds a number of
    layers, experts or tokens that no model has.
    """
    config = parse_object(read_small_file(folder, CONFIG, max_bytes=_MAX_CONFIG_BYTES), what=CONFIG)
    for key, number in _numbers(config):
        if not -_MAX_INT64 <= number <= _MAX_INT64 or not number <= _LARGEST.get(key, _MAX_INT64):
            raise InvalidCheckpoint(
                f"{CONFIG} gives {clean_line(key, max_chars=80)} as "
                f"{clean_line(str(number), max_chars=40)}, which no model has.",
                hint="The file is damaged; download it again.",
            )
        if key in _LARGEST and number < 0:
            raise InvalidCheckpoint(f"{CONFIG} gives {key} as {number}.", hint="The file is damaged.")
    return config


def require_readable(config: Mapping[str, Any]) -> None:
    """Raise `UnsupportedCheckpoint` for weights that were quantised in a way that cannot be read."""
    inner = config.get("text_config")
    for settings in (config, inner if isinstance(inner, dict) else {}):
        method = _quantisation(settings)
        if method is not None and method not in _READABLE_QUANTISATIONS:
            raise UnsupportedCheckpoint(
                f"The checkpoint is already quantised by {clean_line(method, max_chars=40)}, "
                "which cannot be read.",
                hint="Convert the original checkpoint in BF16; quantising twice would also lose twice.",
            )


def _quantisation(settings: Mapping[str, Any]) -> str | None:
    """Return the method that the weights were quantised by; None when they were not."""
    for key in ("quantization_config", "compression_config"):
        described = settings.get(key)
        if isinstance(described, dict) and described:
            return str(described.get("quant_method", "an unnamed method"))
    mlx = settings.get("quantization")  # what mlx-lm's convert writes
    return "MLX" if isinstance(mlx, dict) and "bits" in mlx else None


def _numbers(config: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """All integers with their key, or the key of the list they are in."""
    waiting: list[tuple[str, Any, int]] = [("", config, 0)]
    while waiting:
        key, value, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise InvalidCheckpoint(
                f"{CONFIG} is nested more than {_MAX_DEPTH} deep.", hint="The file is damaged."
            )
        match value:
            case bool():
                pass
            case int():
                yield key, value
            case dict():
                waiting += [(name, item, depth + 1) for name, item in value.items()]
            case list():
                waiting += [(key, item, depth + 1) for item in value]
