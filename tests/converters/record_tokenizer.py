"""Record the `tokenizer.*` keys that llama.cpp's own converter writes for our tokenizer checkpoints.

For developers, after a change of tokenizer_checkpoints.py or of the engine's version; see record.py:

    EDGEAPP_BRIDGE_PYTHON=… EDGEAPP_LLAMA_CPP=… python -m tests.converters.record_tokenizer
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from gguf import GGUFReader

from tests.converters.tokenizer_checkpoints import PRE, write_tokenizer_checkpoint

GOLDEN = Path(__file__).parent / "golden" / "tokenizers.json"
_MANY = 600
"""An array of more elements is recorded by its hash alone."""
_CONVERT = """
import runpy, sys
sources, pre, *arguments = sys.argv[1:]
sys.path[:0] = [sources, sources + "/gguf-py"]
from conversion import base
if pre:
    base.TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
sys.argv = ["convert_hf_to_gguf.py", *arguments]
runpy.run_path(sources + "/convert_hf_to_gguf.py", run_name="__main__")
"""


def recorded(types: list[str], value: object) -> list[Any]:
    """Return a key's GGUF types and value as they stand in the golden file."""
    if isinstance(value, list) and len(value) > _MANY:
        digest = hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()
        return [types, {"n": len(value), "sha256": digest}]
    return [types, value]


def official(name: str, folder: Path) -> dict[str, list[Any]]:
    """Return the keys that the official converter writes for the checkpoint `name`."""
    write_tokenizer_checkpoint(folder, name)
    sources, target = os.environ["EDGEAPP_LLAMA_CPP"], folder / "vocabulary.gguf"
    command = [os.environ["EDGEAPP_BRIDGE_PYTHON"], "-c", _CONVERT, sources, PRE[name] or "", str(folder)]
    subprocess.run([*command, "--vocab-only", "--outfile", str(target)], check=True)
    fields = GGUFReader(target).fields
    keys = {key: field for key, field in fields.items() if key.startswith("tokenizer.")}
    return {key: recorded([kind.name for kind in f.types], f.contents()) for key, f in keys.items()}


def main() -> None:
    golden = {}
    for name in PRE:
        with tempfile.TemporaryDirectory() as folder:
            golden[name] = official(name, Path(folder) / name)
    GOLDEN.write_text(json.dumps(golden, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
