"""Which sampling parameters can be meant. Pure: knows the protocol and the size of a vocabulary.

llama.cpp checks little: a NaN reaches its sorting, a window of 2**31 tokens is allocated at once, and a
failed assertion ends the process. So every value is checked before it becomes a sampler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.errors import UsageError

if TYPE_CHECKING:
    from edgeapp.protocol import Sampling

BAN_BIAS = -100.0  # OpenAI API reference, chat completions, logit_bias
_MOST_BIAS = 100.0  # the same

_MOST_TEMP = 100.0  # every token is about equally likely there
_MOST = 1e6  # products of a few such numbers and a logit stay inside float32
_LEAST = 1e-6  # llama.cpp divides by it
_INT32 = 2**31 - 1  # llama.h
_RANGES: dict[str, tuple[float, float]] = {
    "temp": (0, _MOST_TEMP),
    "dynatemp_range": (0, _MOST_TEMP),
    "dynatemp_exponent": (0, _MOST),
    "top_k": (-_INT32, _INT32),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "typical_p": (0, 1),
    "top_n_sigma": (-_MOST, _MOST),
    "xtc_probability": (0, 1),
    "xtc_threshold": (0, 1),
    "repeat_penalty": (_LEAST, _MOST),
    "frequency_penalty": (-_MOST, _MOST),
    "presence_penalty": (-_MOST, _MOST),
    "penalty_last_n": (-1, _INT32),
    "dry_multiplier": (0, _MOST),
    "dry_base": (1, _MOST),
    "dry_allowed_length": (0, _INT32),
    "dry_penalty_last_n": (-1, _INT32),
    "mirostat": (0, 2),
    "mirostat_tau": (0, _MOST),
    "mirostat_eta": (0, _MOST),
    "seed": (0, 2**32 - 1),  # llama.h: uint32_t
}

_MOST_BREAKERS = 16
"""All answers wait while llama.cpp compares each with every token: 3 ms of 49,000, for a hostile one 200."""
_MOST_BREAKER_BYTES = 40  # llama.cpp src/llama-sampler.cpp, MAX_CHAR_LEN


def check_sampling(settings: Sampling, *, n_vocab: int) -> None:
    """Raise `UsageError` naming the first field whose value llama.cpp's samplers could not take."""
    for name, (low, high) in _RANGES.items():
        value = getattr(settings, name)
        if value is not None and not low <= value <= high:  # also refuses a NaN
            raise UsageError(f"{name} is {value:g}; it must be a number from {low:g} to {high:g}.")
    _check_breakers(settings.dry_sequence_breakers)
    _check_biases(settings, n_vocab)


def _check_breakers(breakers: tuple[str, ...]) -> None:
    if len(breakers) > _MOST_BREAKERS:
        raise UsageError(
            f"dry_sequence_breakers has {len(breakers)} entries; at most {_MOST_BREAKERS} are allowed."
        )
    for breaker in breakers:
        n_bytes = len(breaker.encode("utf-8", "replace"))
        if not 0 < n_bytes <= _MOST_BREAKER_BYTES or "\0" in breaker:
            raise UsageError(
                f"An entry of dry_sequence_breakers has {n_bytes} bytes; "
                f"1 to {_MOST_BREAKER_BYTES} are allowed, none of them NUL."
            )


def _check_biases(settings: Sampling, n_vocab: int) -> None:
    for bias in settings.logit_bias:
        if not 0 <= bias.token < n_vocab:
            raise UsageError(
                f"logit_bias names token {bias.token}; the vocabulary has tokens 0 to {n_vocab - 1}."
            )
        if not bias.bias <= _MOST_BIAS:
            raise UsageError(
                f"logit_bias of token {bias.token} is {bias.bias:g}; it must be at most {_MOST_BIAS:g}."
            )
