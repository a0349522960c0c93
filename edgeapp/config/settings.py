"""Every setting with its type, range and default. Knows no file, no environment and no flag."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

_MAX_SEED = 2**32 - 1  # llama.h: the seed is a uint32_t
_MAX_INT32 = 2**31 - 1  # llama.h: n_threads and top_k are int32_t
_MAX_EXPERTS = 512  # LLAMA_MAX_EXPERTS (src/llama-hparams.h)
MIN_CTX = 64

Temp = Annotated[float, Meta(ge=0, le=100, description="a number from 0 (greedy) to 100")]
TempRange = Annotated[float, Meta(ge=0, le=100, description="a number from 0 (off) to 100")]
TopP = Annotated[float, Meta(gt=0, le=1, description="a number above 0, at most 1 (off)")]
TopK = Annotated[int, Meta(ge=0, le=_MAX_INT32, description="a whole number from 0 (off) up")]
ShareFromZero = Annotated[float, Meta(ge=0, le=1, description="a number from 0 (off) to 1")]
Threshold = Annotated[float, Meta(ge=0, le=1, description="a number from 0 to 1 (off above 0.5)")]
RepeatPenalty = Annotated[float, Meta(gt=0, le=10, description="a number above 0, at most 10; 1 is off")]
Penalty = Annotated[float, Meta(ge=-2, le=2, description="a number from -2 to 2; 0 is off")]
"""OpenAI API reference, chat completions: frequency_penalty and presence_penalty."""
DryMultiplier = Annotated[float, Meta(ge=0, le=100, description="a number from 0 (off) to 100")]
Mirostat = Annotated[Literal[0, 1, 2], Meta(description="0 (off), 1 or 2")]
Seed = Annotated[int, Meta(ge=0, le=_MAX_SEED, description=f"a whole number from 0 to {_MAX_SEED}")]
Count = Annotated[int, Meta(ge=0, le=_MAX_INT32, description="a whole number from 0 up")]
Context = Annotated[
    int, Meta(ge=0, le=_MAX_INT32, description=f"0 or a whole number of tokens from {MIN_CTX} up")
]
Experts = Annotated[
    int, Meta(ge=0, le=_MAX_EXPERTS, description=f"a whole number from 0 (as trained) to {_MAX_EXPERTS}")
]
Think = Annotated[Literal["auto", "on", "off"], Meta(description="auto, on or off")]
AutoOrOff = Annotated[Literal["auto", "off"], Meta(description="auto or off")]
Size = Annotated[
    str,
    Meta(pattern=r"^(0|[0-9]{1,6}(\.[0-9]{1,3})?[kKmMgGtT])$", description="0 or a size such as 512M or 2G"),
]
KvType = Annotated[
    Literal["f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "auto"],
    Meta(description="f16, q8_0, q5_1, q5_0, q4_1, q4_0 or auto"),
]
CpuExperts = Annotated[
    str,
    Meta(
        pattern=r"^(auto|[0-9]{1,3}|[0-9]{1,3}(-[0-9]{1,3})?(,[0-9]{1,3}(-[0-9]{1,3})?)*,?)$",
        description="auto, a number of layers, or layers such as 30-47 or 3,5,",
    ),
]
Ubatch = Annotated[int, Meta(ge=0, le=16384, description="0 (the plan decides) or 1 to 16384 tokens")]
Seconds = Annotated[float, Meta(ge=0, le=10**7, description="a number of seconds from 0 (never) up")]
Threads = Annotated[
    int, Meta(ge=0, le=1024, description="a whole number from 0 (all physical cores) to 1024")
]
ThemeName = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="the name of a Textual theme, such as nord")
]
Offline = Annotated[bool, Meta(description="true or false")]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"], Meta(description="debug, info, warning or error")
]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a user may choose."""

    system: Annotated[str, Meta(max_length=100_000, description="a text")] | None = None
    """System prompt. None sends none."""
    temp: Temp | None = None
    """Temperature; 0 always takes the likeliest token. None: the catalog's advice, else llama.cpp's 0.8."""
    top_p: TopP | None = None
    """Sample from the likeliest tokens that together have this probability. None: catalog, else 0.95."""
    top_k: TopK | None = None
    """Sample from this many likeliest tokens. None: catalog, else 40."""
    min_p: ShareFromZero | None = None
    """Drop tokens less likely than this share of the likeliest. None: catalog, else 0.05."""
    typical_p: TopP = 1.0
    """Locally typical sampling: keep the tokens of about usual surprise with this probability in all."""
    xtc_probability: ShareFromZero = 0.0
    """How often all tokens above `xtc_threshold` but the least likely of them are removed."""
    xtc_threshold: Threshold = 0.1
    """From which probability on XTC removes tokens."""
    dynatemp_range: TempRange = 0.0
    """Let the temperature move within `temp` plus or minus this, by how sure the model is."""
    mirostat: Mirostat = 0
    """Version of Mirostat, which replaces the other samplers but penalties and temperature."""
    repeat_penalty: RepeatPenalty = 1.0
    """Divide the logits of the last 64 tokens by this."""
    frequency_penalty: Penalty = 0.0
    """Lower the logits of recent tokens by this for each time they occurred."""
    presence_penalty: Penalty = 0.0
    """Lower the logits of recent tokens by this, however often they occurred."""
    dry_multiplier: DryMultiplier = 0.0
    """Strength of the DRY penalty for repeating whole sequences; 0.8 is usual."""
    seed: Seed | None = None
    """Seed of the sampler. None draws a fresh one for every answer."""
    max_tokens: Count = 0
    """Longest answer in tokens. 0: until the model ends or the context is full."""
    think: Think = "auto"
    """Tell the chat template to let the model think, or not to; auto leaves it to the template."""
    draft: AutoOrOff = "auto"
    """Guess tokens ahead and check them together. It changes the speed, not the choice of tokens."""
    ctx: Context = 0
    """Context length in tokens. 0: what the model was trained with, at most 8192."""
    experts: Experts = 0
    """Experts that each token uses. 0: as many as in training."""
    cache_ram: Size | None = None
    """Host memory for conversations that had to leave the KV cache. None: the placement plan decides."""
    threads: Threads = 0
    """Compute threads. 0: one per physical core."""
    gpu: AutoOrOff = "auto"
    """Use GPUs: auto puts on them what fits, off keeps everything on the CPU."""
    max_vram: Size | None = None
    """Most GPU memory to use. None: what is free, less `reserve`."""
    reserve: Size | None = None
    """GPU memory that stays free for other programs. None: 8 percent, 256 MiB to 1 GiB."""
    max_ram: Size | None = None
    """Most host memory to use. None: what is available, less a share for the system."""
    kv: KvType = "f16"
    """Type of the KV cache. auto: F16, and Q8_0 where nothing else fits."""
    ubatch: Ubatch = 0
    """Tokens of a prompt that are computed together. 0: the placement plan decides."""
    cpu_experts: CpuExperts = "auto"
    """Layers whose experts stay in host memory: how many, the last ones first, or which."""
    cpu_fallback: AutoOrOff = "auto"
    """When the GPU is lost: auto goes on on the CPU, off ends with an error."""
    idle_release: Seconds = 0.0
    """Free the engine's memory after so many seconds without a question; the next one loads it again."""
    history: AutoOrOff = "auto"
    """Keep the chats on disk: auto or off."""
    offline: Offline = False
    """Never touch the network. `HF_HUB_OFFLINE=1` has the same effect."""
    theme: ThemeName = "textual-dark"
    """Theme of the terminal user interface."""
    log_level: LogLevel = "warning"
    """How much is logged to stderr."""

    @property
    def cache_ram_bytes(self) -> int | None:
        """`cache_ram` in bytes; None when the placement plan decides."""
        return _bytes_or_none(self.cache_ram)

    @property
    def max_vram_bytes(self) -> int | None:
        return _bytes_or_none(self.max_vram)

    @property
    def reserve_bytes(self) -> int | None:
        return _bytes_or_none(self.reserve)

    @property
    def max_ram_bytes(self) -> int | None:
        return _bytes_or_none(self.max_ram)


KEYS: tuple[str, ...] = Settings.__struct_fields__
"""Every setting, in the order of `Settings`."""


def _bytes_or_none(text: str | None) -> int | None:
    return None if text is None else bytes_of(text)


def bytes_of(text: str) -> int:
    """Return the bytes of a `Size`."""
    power = "kmgt".find(text[-1].lower()) + 1
    return int(float(text.rstrip("kKmMgGtT")) * 1024**power)
