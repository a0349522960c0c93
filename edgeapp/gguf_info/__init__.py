"""GGUF header → `GgufInfo`, in milliseconds, hardened against hostile files.

    parts.py (open, splits) → parse.py (on reader.py) → header.py → kind.py, hyperparameters.py,
    vocabulary.py (check) → facts.py (derive)

Pure Python on purpose: the gguf package needs numpy and builds every token as an object, which costs seconds.
"""

from edgeapp.gguf_info.facts import GgufInfo, TensorTypeShare, read_gguf_info

__all__ = ["GgufInfo", "TensorTypeShare", "read_gguf_info"]
