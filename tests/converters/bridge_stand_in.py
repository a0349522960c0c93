"""A stand-in for llama.cpp's sources and for transformers: a converter that runs whatever a test wants tried.

It lets the bounds around the real converter be tested where torch is not installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

CONVERT = """
import shutil
outfile = next(a for a in sys.argv if a.startswith("--outfile=")).partition("=")[2]
shutil.copy(os.path.dirname(os.path.abspath(__file__)) + "/model.gguf", outfile)
"""
_HEAD = """
import os, sys
def attempt(what, action):
    try:
        print(what, action())
    except Exception as problem:
        print(what, "refused", type(problem).__name__, problem)
"""
_TRANSFORMERS = """
class _Auto:
    @classmethod
    def from_pretrained(cls, name, **options):
        return cls.__name__, options
class AutoConfig(_Auto): pass
class AutoTokenizer(_Auto): pass
class AutoProcessor(_Auto): pass
class AutoModel(_Auto): pass
"""
_DYNAMIC = """
def get_cached_module_file(*arguments, **options):
    return "code of the repository"
def get_class_in_module(*arguments, **options):
    return "code of the repository"
"""
_BASE = """
class TextModel:
    def get_vocab_base_pre(self, tokenizer):
        raise NotImplementedError("BPE pre-tokenizer was not recognized - update get_vocab_base_pre()")
"""


def write_sources(folder: Path, gguf: Path, script: str = CONVERT) -> Path:
    """Write sources whose converter runs `script`; `CONVERT` copies `gguf` to where the file should go."""
    (folder / "transformers").mkdir(parents=True)
    (folder / "conversion").mkdir()
    (folder / "model.gguf").symlink_to(gguf)
    (folder / "convert_hf_to_gguf.py").write_text(_HEAD + script)
    (folder / "transformers" / "__init__.py").write_text(_TRANSFORMERS)
    (folder / "transformers" / "dynamic_module_utils.py").write_text(_DYNAMIC)
    (folder / "conversion" / "__init__.py").write_text("")
    (folder / "conversion" / "base.py").write_text(_BASE)
    return folder
