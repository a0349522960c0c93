"""GGUF header → `GgufInfo`, in milliseconds, hardened against hostile files.

    parts.py (open, splits) → parse.py (on reader.py) → header.py → kind.py, hyperparameters.py,
    vocabulary.py (check) → cache_layers.py (on sliding_window.py, recurrent_layers.py), layer_bytes.py
    → facts.py (derive)

Pure Python on purpose: the gguf package needs numpy and builds every token as an object, which costs seconds.
"""

from edgeapp.gguf_info.cache_layers import CacheLayout, LayerCache
from edgeapp.gguf_info.facts import GgufInfo, TensorTypeShare, read_gguf_info
from edgeapp.gguf_info.layer_bytes import LayerBytes, TensorBytes

__all__ = [
    "CacheLayout",
    "GgufInfo",
    "LayerBytes",
    "LayerCache",
    "TensorBytes",
    "TensorTypeShare",
    "read_gguf_info",
]
