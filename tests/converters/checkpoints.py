"""Writes tiny checkpoints of every family from their specs, without torch: the same spec, the same bytes.

A spec is a module in `tests/converters/specs/` with `CONFIG` and `tensors()`. Values come from raw integers
of a counter-based generator, so that no library's choice of algorithm can change them.
"""

from __future__ import annotations

import importlib
import json
import math
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tests.tiny_moe import CHATML, cut_vocabulary

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

Shapes = list[tuple[str, tuple[int, ...], str]]
_SPECS = Path(__file__).parent / "specs"
_LARGE = {"hidden_size": 512, "moe_intermediate_size": 512, "num_experts": 16, "num_hidden_layers": 4}
_ROUTERS = ("gate.weight", "router.weight", "router.layer.weight", "router.proj.weight")


class Spec(Protocol):
    """What a module in `specs/` offers."""

    CONFIG: dict[str, Any]

    def tensors(self) -> Shapes: ...


def names() -> list[str]:
    """Return the names of all specs."""
    return sorted(path.stem for path in _SPECS.glob("*.py") if path.stem != "__init__")


def spec(name: str) -> Spec:
    return importlib.import_module(f"tests.converters.specs.{name}")


def write_checkpoint(folder: Path, name: str, *, n_shards: int = 1) -> Path:
    """Write the checkpoint of spec `name` into `folder` and return the folder.

    Its tokenizer is cut from SmolLM2's, so the pre-tokenizer is recognised by its structure alone.
    """
    chosen = spec(name)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = chosen.tensors()
    if n_shards == 1:
        write_safetensors(folder / "model.safetensors", tensors)
    else:
        _write_shards(folder, tensors, n_shards)
    (folder / "config.json").write_text(json.dumps(chosen.CONFIG, indent=1))
    _write_tokenizer(folder, _n_vocab(chosen.CONFIG))
    return folder


def write_large_checkpoint(folder: Path) -> Path:
    """Write a Qwen3-MoE of 50 million weights in two shards, which takes seconds to convert."""
    folder.mkdir(parents=True)
    config = spec("qwen3_moe").CONFIG | _LARGE
    width, n_ff, n_expert = 512, 512, 16
    tensors: Shapes = [
        ("model.embed_tokens.weight", (512, width), "BF16"),
        ("model.norm.weight", (width,), "BF16"),
        ("lm_head.weight", (512, width), "BF16"),
    ]
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        tensors += [
            (f"{at}.input_layernorm.weight", (width,), "BF16"),
            (f"{at}.post_attention_layernorm.weight", (width,), "BF16"),
            (f"{at}.self_attn.q_proj.weight", (512, width), "BF16"),
            (f"{at}.self_attn.k_proj.weight", (256, width), "BF16"),
            (f"{at}.self_attn.v_proj.weight", (256, width), "BF16"),
            (f"{at}.self_attn.o_proj.weight", (width, 512), "BF16"),
            (f"{at}.self_attn.q_norm.weight", (128,), "BF16"),
            (f"{at}.self_attn.k_norm.weight", (128,), "BF16"),
            (f"{at}.mlp.gate.weight", (n_expert, width), "BF16"),
            (f"{at}.mlp.experts.gate_up_proj", (n_expert, 2 * n_ff, width), "BF16"),
            (f"{at}.mlp.experts.down_proj", (n_expert, width, n_ff), "BF16"),
        ]
    _write_shards(folder, tensors, 2)
    (folder / "config.json").write_text(json.dumps(config))
    _write_tokenizer(folder, 512)
    return folder


def write_safetensors(path: Path, tensors: Sequence[tuple[str, tuple[int, ...], str]]) -> None:
    """Write seeded tensors in the safetensors format."""
    header: dict[str, Any] = {}
    blobs: list[bytes] = []
    end = 0
    for name, shape, dtype in tensors:
        blob = values(name, shape, dtype).tobytes()
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + len(blob)]}
        blobs.append(blob)
        end += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))


def values(name: str, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    """Return the seeded elements of tensor `name`, flat, in the storage type of `dtype`.

    Matrices have gains near one and routers a wide spread, so that no choice of experts is a near tie.
    """
    random = np.random.Philox(key=zlib.crc32(name.encode()))
    n_elements = math.prod(shape)
    raw = random.random_raw(n_elements)
    if dtype == "U8":
        codes = 116 + raw % 5 if name.endswith("_scales") else raw % 256
        return codes.astype(np.uint8)
    if dtype.startswith("F8"):
        codes = (raw % 256).astype(np.uint8)
        codes[(codes & 0x7F) == 0x7F] = 0  # NaN
        return codes
    uniform = ((raw >> 40).astype(np.float64) / (1 << 23) - 1).astype(np.float32)
    scaled = _scaled(name, shape, uniform).astype(np.float32)
    if dtype == "F32":
        return scaled
    if dtype == "F16":
        return scaled.astype(np.float16)
    return (scaled.view(np.uint32) >> 16).astype(np.uint16)


def _scaled(name: str, shape: tuple[int, ...], uniform: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    offset, width = _range(name, shape)
    return np.float32(offset) + np.float32(width) * uniform


def _range(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Return middle and half width of the interval that values are drawn from."""
    if name.endswith("scale_inv"):
        return 0.00045, 0.0003
    if name.endswith((".scale", "_scale", "scalar")) or ("norm" in name and len(shape) == 1):
        return 1.0, 0.2
    if name.endswith(("bias", "sinks")):
        return 0.0, 0.3
    if "embed" in name or "A_log" in name:
        return 0.0, 1.0
    columns = shape[-1] if len(shape) > 1 else 1
    return 0.0, (6.0 if name.endswith(_ROUTERS) else 1.7) / math.sqrt(columns)


def _write_shards(folder: Path, tensors: Shapes, n_shards: int) -> None:
    """Spread the tensors like cards, so that the experts of one layer lie in all shards."""
    weight_map: dict[str, str] = {}
    for number in range(n_shards):
        shard = f"model-{number + 1:05}-of-{n_shards:05}.safetensors"
        mine = tensors[number::n_shards]
        write_safetensors(folder / shard, mine)
        weight_map |= {name: shard for name, _, _ in mine}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def _write_tokenizer(folder: Path, n_vocab: int) -> None:
    vocabulary = cut_vocabulary(n_vocab)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    plain = {"single_word": False, "lstrip": False, "rstrip": False}
    control = [i for i, kind in enumerate(vocabulary.types) if kind == 3]
    tokenizer = {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": vocabulary.tokens[i], "special": True, "normalized": False, **plain}
            for i in control
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vocab": {token: i for i, token in enumerate(vocabulary.tokens)},
            "merges": vocabulary.merges,
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    bos, eos = "<|im_start|>", "<|im_end|>"
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": eos,
        "chat_template": CHATML,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _n_vocab(config: dict[str, Any]) -> int:
    return int(config.get("vocab_size") or config["text_config"]["vocab_size"])
