"""The GGUF keys that all families share: sizes, attention, rotary embedding, experts. Knows no tensor.

What llama.cpp's converter writes in TextModel.set_gguf_parameters (conversion/base.py), read from a
config.json of any age: transformers 5 saves `rope_parameters`, older ones `rope_theta` and `rope_scaling`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeapp.cleantext import clean_line
from edgeapp.errors import InvalidCheckpoint, UnsupportedCheckpoint
from edgeapp_converters.arch.config import Config
from edgeapp_converters.metadata import Metadata, f32, i32s, string, u32

if TYPE_CHECKING:
    from collections.abc import Sequence

SOFTMAX = 1
SIGMOID = 2
_GATING = {"softmax": SOFTMAX, "sigmoid": SIGMOID}  # llama.cpp, gguf-py, ExpertGatingFuncType

_ROPE_NUMBERS = (
    *("rope_theta", "factor", "partial_rotary_factor", "original_max_position_embeddings"),
    *("extrapolation_factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"),
    *("low_freq_factor", "high_freq_factor"),
)
_YARN = {
    "extrapolation_factor": "yarn_ext_factor",
    "attention_factor": "yarn_attn_factor",
    "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow",
}


def sizes(arch: str, config: Config, *, n_layer: int, n_head_kv: int | Sequence[int]) -> Metadata:
    """Layers, context, widths and heads; `n_head_kv` is a list where it differs by layer."""
    heads = u32(n_head_kv) if isinstance(n_head_kv, int) else i32s(n_head_kv)
    keys = {
        f"{arch}.block_count": u32(n_layer),
        f"{arch}.context_length": u32(config.integer("max_position_embeddings")),
        f"{arch}.embedding_length": u32(config.integer("hidden_size")),
        f"{arch}.attention.head_count": u32(config.integer("num_attention_heads")),
        f"{arch}.attention.head_count_kv": heads,
    }
    n_ff = config.optional_integer("intermediate_size")
    return keys if n_ff is None else keys | {f"{arch}.feed_forward_length": u32(n_ff)}


def rotary(arch: str, config: Config, *, theta: float | None = None) -> Metadata:
    """Base frequency and scaling. `theta` is what the family's own code takes when none is written.

    Raise `UnsupportedCheckpoint` for a scaling that needs factor tensors.
    """
    rope = rope_parameters(config)
    base = rope.get("rope_theta", theta)
    keys: Metadata = {} if base is None else {f"{arch}.rope.freq_base": f32(float(base))}
    match rope["rope_type"]:
        case "default":
            return keys
        case "linear":
            return keys | _scaling(arch, "linear", rope)
        case "yarn":
            return keys | _scaling(arch, "yarn", rope) | _yarn(arch, config, rope)
        case other:
            raise UnsupportedCheckpoint(
                f"This architecture cannot use the rotary scaling {clean_line(str(other), max_chars=40)!r}.",
                hint="Try --bridge, which runs llama.cpp's own converter.",
            )


def rope_parameters(config: Config) -> dict[str, Any]:
    """The rotary settings in the form of transformers 5, with `rope_type` always set.

    Raise `InvalidCheckpoint` where one that is known to be a number is none.
    """
    rope = dict(config.mapping("rope_parameters") or config.mapping("rope_scaling"))
    rope["rope_type"] = rope.get("rope_type") or rope.get("type") or "default"
    for key in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings"):
        value = config.optional_number(key)
        if rope.get(key) is None and value is not None:
            rope[key] = value
    checked = Config(rope)
    for key in _ROPE_NUMBERS:
        checked.optional_number(key)
    return {key: value for key, value in rope.items() if value is not None}


def rotated(config: Config, n_dimensions: int, default: float) -> int:
    """How many of a head's dimensions are rotated; `default` is the share for a file that does not say."""
    share = float(rope_parameters(config).get("partial_rotary_factor", default))
    if not 0 < share <= 1:
        raise InvalidCheckpoint(
            f"config.json gives partial_rotary_factor as {share}, not as a share up to 1."
        )
    return int(n_dimensions * share)


def _scaling(arch: str, kind: str, rope: dict[str, Any]) -> Metadata:
    return {
        f"{arch}.rope.scaling.type": string(kind),
        f"{arch}.rope.scaling.factor": f32(Config(rope).number("factor")),
    }


def _yarn(arch: str, config: Config, rope: dict[str, Any]) -> Metadata:
    trained = rope.get("original_max_position_embeddings", config.integer("max_position_embeddings"))
    keys: Metadata = {f"{arch}.rope.scaling.original_context_length": u32(int(trained))}
    for name, key in _YARN.items():
        if name in rope:
            keys[f"{arch}.rope.scaling.{key}"] = f32(float(rope[name]))
    return keys


def experts(arch: str, *, n_expert: int, n_expert_used: int, n_ff: int | None = None) -> Metadata:
    """Counts, and the width of one expert where it is not the layer's own."""
    keys = {f"{arch}.expert_count": u32(n_expert), f"{arch}.expert_used_count": u32(n_expert_used)}
    if n_ff is not None:
        keys[f"{arch}.expert_feed_forward_length"] = u32(n_ff)
    return keys


def expert_groups(arch: str, config: Config) -> Metadata:
    """How many groups of experts there are, and how many of them a token may use."""
    names = {"n_group": "expert_group_count", "topk_group": "expert_group_used_count"}
    values = {key: config.optional_integer(name) for name, key in names.items()}
    return {f"{arch}.{key}": u32(value) for key, value in values.items() if value is not None}


def gating(name: str) -> int:
    """llama.cpp's number for the function that scores experts."""
    if name not in _GATING:
        raise UnsupportedCheckpoint(f"llama.cpp cannot score experts by {clean_line(name, max_chars=40)!r}.")
    return _GATING[name]


def fp8_block(config: Config) -> tuple[int, int]:
    """Rows and columns of an FP8 weight that share a scale: DeepSeek's 128 × 128 unless said otherwise."""
    match config.mapping("quantization_config").get("weight_block_size"):
        case None:
            return 128, 128
        case [int(rows), int(columns)] if rows > 0 and columns > 0:
            return rows, columns
        case other:
            shown = clean_line(repr(other), max_chars=60)
            raise InvalidCheckpoint(f"config.json gives weight_block_size as {shown}, not as two sizes.")


def positive(config: Config, name: str, default: int | None = None) -> int:
    """A count that something is divided by. Raise `InvalidCheckpoint` for zero."""
    value = config.integer(name, default)
    if not value:
        raise InvalidCheckpoint(f"config.json gives {name} as 0, which no model has.")
    return value


def head_dim(arch: str, n_dimensions: int) -> Metadata:
    """Dimensions of a head, where they are not the width divided by the heads."""
    lengths = ("attention.key_length", "attention.value_length")
    return {f"{arch}.{length}": u32(n_dimensions) for length in lengths}
