"""How the next token is chosen: sampling, the grammar it must obey, drafts, adapters."""

from __future__ import annotations

from typing import Literal

import msgspec


class LogitBias(msgspec.Struct, frozen=True, kw_only=True):
    """Added to the logit of `token` before anything else; -100 and below bans it, as in OpenAI's API."""

    token: int
    bias: float


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of llama.cpp's sampler chain, with its defaults (common/common.h, common_params_sampling).

    They are applied in llama.cpp's order: logit bias, penalties, DRY, top-n-sigma, top-k, typical, top-p,
    min-p, XTC, temperature, then the draw. Mirostat replaces everything between penalties and draw.
    """

    temp: float = 0.8
    """0 is greedy: the likeliest token always."""
    dynatemp_range: float = 0.0
    """The temperature moves within `temp` ± this, by entropy (arXiv:2309.02772); 0 is off."""
    dynatemp_exponent: float = 1.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    """Locally typical sampling (arXiv:2202.00666); 1 is off."""
    top_n_sigma: float = -1.0
    """Keep logits within this many standard deviations of the best; negative is off."""
    xtc_probability: float = 0.0
    """Chance that XTC removes the likeliest tokens above `xtc_threshold`; 0 is off."""
    xtc_threshold: float = 0.1
    repeat_penalty: float = 1.0
    """Divide (multiply when negative) the logits of recent tokens by this; 1 is off."""
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_last_n: int = 64
    """How many recent tokens, prompt included, the three penalties look at; -1 is the whole context."""
    dry_multiplier: float = 0.0
    """Strength of the DRY penalty for repeated sequences; 0 is off."""
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat: Literal[0, 1, 2] = 0
    """Version of Mirostat (arXiv:2007.14966); 0 is off."""
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    logit_bias: tuple[LogitBias, ...] = ()
    seed: int | None = None
    """None draws a fresh seed for every request; greedy (`temp` 0) needs none."""


GrammarKind = Literal["json_schema", "json_object", "gbnf", "regex"]


class Grammar(msgspec.Struct, frozen=True, kw_only=True):
    """What the answer must match. `source` is a JSON schema, GBNF or a regular expression."""

    kind: GrammarKind
    source: str = ""


class AdapterUse(msgspec.Struct, frozen=True, kw_only=True):
    """A LoRA adapter that the worker knows, and how strongly it is applied."""

    name: str
    scale: float = 1.0


class Drafting(msgspec.Struct, frozen=True, kw_only=True):
    """Speculative decoding: guess the next tokens, check them in one batch.

    Acceptance is exact, so the answer is the same with and without. `auto` drafts by prompt lookup, or with
    the draft model when one is loaded, and stops while too few guesses are right.
    """

    mode: Literal["auto", "off"] = "auto"
    max_tokens: int = 15
    """Most tokens of one draft."""
