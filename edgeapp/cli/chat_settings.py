"""From settings and flags to what is asked of the engine with every message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from edgeapp.protocol import Drafting, Sampling
from edgeapp.session import ChatSettings

if TYPE_CHECKING:
    from edgeapp.catalog import SamplingAdvice
    from edgeapp.config import Settings
    from edgeapp.protocol import AdapterUse, Grammar

Number = TypeVar("Number", int, float)


def chat_settings(
    settings: Settings,
    advice: SamplingAdvice,
    *,
    grammar: Grammar | None = None,
    adapters: tuple[AdapterUse, ...] = (),
    logprobs: int | None = None,
) -> ChatSettings:
    """Return the settings of a conversation; `logprobs` None reports none."""
    return ChatSettings(
        system=well_formed(settings.system or ""),
        sampling=sampling(settings, advice),
        max_tokens=settings.max_tokens,
        template_options=template_options(settings),
        drafting=Drafting(mode=settings.draft),
        grammar=grammar,
        adapters=adapters,
        logprobs=-1 if logprobs is None else logprobs,
    )


def sampling(settings: Settings, advice: SamplingAdvice) -> Sampling:
    """Take each value from the user, else the model's catalog entry, else llama.cpp's default."""
    default = Sampling()
    return Sampling(
        temp=_first(settings.temp, advice.temp, default.temp),
        top_k=_first(settings.top_k, advice.top_k, default.top_k),
        top_p=_first(settings.top_p, advice.top_p, default.top_p),
        min_p=_first(settings.min_p, advice.min_p, default.min_p),
        typical_p=settings.typical_p,
        xtc_probability=settings.xtc_probability,
        xtc_threshold=settings.xtc_threshold,
        dynatemp_range=settings.dynatemp_range,
        mirostat=settings.mirostat,
        repeat_penalty=settings.repeat_penalty,
        frequency_penalty=settings.frequency_penalty,
        presence_penalty=settings.presence_penalty,
        dry_multiplier=settings.dry_multiplier,
        seed=settings.seed,
    )


def template_options(settings: Settings) -> dict[str, Any]:
    """`enable_thinking` is the switch of Qwen3, GLM, Hunyuan and others; templates without it ignore it."""
    return {} if settings.think == "auto" else {"enable_thinking": settings.think == "on"}


def well_formed(argument: str) -> str:
    """Replace bytes of an argument that are not UTF-8, which Python hands over as lone surrogates."""
    return argument.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _first(chosen: Number | None, advised: Number | None, default: Number) -> Number:
    known = chosen if chosen is not None else advised
    return default if known is None else known
