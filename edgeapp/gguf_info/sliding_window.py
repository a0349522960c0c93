"""Which layers see only a window of the text, and how long it is.

Source: `load_arch_hparams` in src/models/ at llama.cpp 0c1e57098.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeapp.gguf_info.hyperparameters import MAX_INT32

if TYPE_CHECKING:
    from edgeapp.gguf_info.hyperparameters import Fields, Hyperparameters

_PATTERN = "attention.sliding_window_pattern"


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """How an architecture reads its window where the header has no pattern."""

    period: int = 1
    """Of so many layers one sees everything; 0 is none, 1 is all."""
    full_first: bool = False
    default_window: int = 0
    fixed_window: int = 0


_RULES = {
    "afmoe": _Rule(period=4),
    "cohere2": _Rule(period=4),
    "cohere2moe": _Rule(period=4, full_first=True),
    "deepseek4": _Rule(period=0),
    "dflash": _Rule(),
    "dots3note": _Rule(),
    "exaone-moe": _Rule(period=4, default_window=128),
    "exaone4": _Rule(period=4, default_window=4096),
    "gemma2": _Rule(period=2, default_window=4096),
    "gemma3": _Rule(period=6),
    "gemma3n": _Rule(period=5),
    "gemma4": _Rule(),
    "gpt-oss": _Rule(period=2),
    "granite_swa": _Rule(),
    "laguna": _Rule(period=4, full_first=True),
    "lfm2": _Rule(period=0),
    "llama4": _Rule(period=4, default_window=8192, fixed_window=8192),
    "maple": _Rule(),
    "mellum": _Rule(period=4),
    "mimo2": _Rule(),
    "muse-glimmer": _Rule(period=4),
    "olmo2": _Rule(period=4),
    "plamo3": _Rule(period=8),
    "smallthinker": _Rule(period=4, full_first=True, fixed_window=4096),
    "spark2_5": _Rule(),
    "step35": _Rule(),
}
_EXAONE4_LAYERS_WITH_WINDOW = 64  # src/models/exaone4.cpp: the 32B model only


def sliding_window(
    fields: Fields, arch: str, hyper: Hyperparameters, is_recurrent: tuple[bool, ...]
) -> tuple[int, tuple[bool, ...]]:
    """Return the window's tokens, and for each layer whether it has one; (0, all False) without windows."""
    nowhere = (False,) * hyper.n_layer
    rule = _RULES.get(arch)
    if rule is None or (arch == "exaone4" and hyper.n_layer != _EXAONE4_LAYERS_WITH_WINDOW):
        return 0, nowhere
    window = fields.number("attention.sliding_window", low=0, high=MAX_INT32, default=rule.default_window)
    if not window:
        return 0, nowhere
    window = rule.fixed_window or window
    if arch == "lfm2":
        return window, tuple(not recurrent for recurrent in is_recurrent)
    flags = fields.flags(_PATTERN)
    if flags is not None:
        return window, (flags + nowhere)[: hyper.n_layer]
    period = (
        rule.period
        if arch == "deepseek4"
        else fields.number(_PATTERN, low=0, high=MAX_INT32, default=rule.period)
    )
    n_trunk = hyper.n_layer - hyper.n_layer_nextn
    return window, tuple(
        layer < n_trunk and _has_window(layer, period, full_first=rule.full_first)
        for layer in range(hyper.n_layer)
    )


def _has_window(layer: int, period: int, *, full_first: bool) -> bool:
    """`llama_hparams::set_swa_pattern`."""
    if not period:
        return True
    return layer % period != 0 if full_first else layer % period < period - 1
