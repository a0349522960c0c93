"""Record what llama.cpp's own converter and transformers make of our tiny checkpoints.

For developers, after a change of a spec or of the engine's version:

    EDGEAPP_BRIDGE_PYTHON=… EDGEAPP_LLAMA_CPP=… python -m tests.converters.record [spec …]

The first names a Python with torch and transformers, the second llama.cpp's sources. Everything else, CI
included, compares with the files in `golden/` that this writes.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader

from tests.converters.checkpoints import names, spec, write_checkpoint

GOLDEN = Path(__file__).parent / "golden"
TOKENS = [(17 * i * i + 31 * i + 40) % 512 for i in range(16)]
"""The sequence whose logits are recorded: spread over the vocabulary, no token twice in a row."""

_CONVERT = """
import runpy, sys
sources, *arguments = sys.argv[1:]
sys.path[:0] = [sources, sources + "/gguf-py"]
from conversion import base, ernie, gemma
# The tokenizer is cut from SmolLM2's, so its hash is unknown; tokenizers have a test of their own.
base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "smollm"
plain = lambda self: self._set_vocab_gpt2()
for model in (ernie.Ernie4_5Model, gemma.Gemma4Model):
    model.set_vocab = plain
base.TextModel._set_vocab_glm = plain
sys.argv = ["convert_hf_to_gguf.py", *arguments]
runpy.run_path(sources + "/convert_hf_to_gguf.py", run_name="__main__")
"""
_LOGITS = """
import json, os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
import numpy, torch
from transformers import AutoModelForCausalLM
folder, tokens, target = sys.argv[1:]
model, said = AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager",
    output_loading_info=True)
wrong = {key: sorted(map(str, value)) for key, value in said.items() if value and key != "error_msgs"}
if all("mtp" in key or ".layers." in key for key in said["unexpected_keys"]):
    wrong.pop("unexpected_keys", None)  # layers that predict further tokens, which transformers leaves out
if wrong:
    sys.exit(json.dumps(wrong)[:2000])
with torch.no_grad():
    logits = model.eval()(torch.tensor([json.loads(tokens)])).logits[0]
numpy.save(target, logits.numpy())
"""


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for name in sys.argv[1:] or names():
        with tempfile.TemporaryDirectory() as scratch:
            folder = write_checkpoint(Path(scratch) / "checkpoint", name)
            recorded = official_facts(folder, Path(scratch) / "official.gguf")
            recorded["without_logits"] = _record_logits(folder, name)
        text = json.dumps(recorded, indent=1, sort_keys=True).encode()
        (GOLDEN / f"{name}.json.gz").write_bytes(gzip.compress(text, mtime=0))
        sys.stdout.write(f"{name}: {recorded['without_logits'] or 'with logits'}\n")


def official_facts(folder: Path, gguf: Path) -> dict[str, Any]:
    """Convert `folder` with llama.cpp's converter to F32 and return tensors and keys."""
    sources = os.environ["EDGEAPP_LLAMA_CPP"]
    command = [_oracle(), "-c", _CONVERT, sources, str(folder), "--outtype", "f32", "--outfile", str(gguf)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return facts_of(gguf)


def facts_of(gguf: Path) -> dict[str, Any]:
    """Return name, type, shape and sha256 of every tensor, and every key of the architecture."""
    reader = GGUFReader(gguf)
    architecture = str(reader.fields["general.architecture"].contents())
    tensors = {
        tensor.name: {
            "type": tensor.tensor_type.name,
            "shape": [int(size) for size in reversed(tensor.shape)],
            "sha256": hashlib.sha256(np.ascontiguousarray(tensor.data).tobytes()).hexdigest(),
        }
        for tensor in reader.tensors
    }
    for tensor in reader.tensors:
        if tensor.name.endswith("ssm_a"):  # exponentials, whose last bit depends on the library
            tensors[tensor.name]["values"] = [float(value) for value in tensor.data.reshape(-1)]
    keys = {
        key: {"types": [kind.name for kind in field.types], "value": field.contents()}
        for key, field in reader.fields.items()
        if key.startswith(f"{architecture}.")
    }
    return {"architecture": architecture, "tensors": tensors, "keys": keys}


def _record_logits(folder: Path, name: str) -> str:
    """Record transformers' logits; return why it could not, or nothing."""
    target = GOLDEN / f"{name}.npy"
    target.unlink(missing_ok=True)
    if "quantization_config" in spec(name).CONFIG and "fp8" in name:
        return "transformers dequantises FP8 blocks that end inside a matrix differently"
    done = subprocess.run(
        [_oracle(), "-c", _LOGITS, str(folder), json.dumps(TOKENS), str(target)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr.strip().splitlines()[-1][:300] if done.returncode else ""


def _oracle() -> str:
    return os.environ["EDGEAPP_BRIDGE_PYTHON"]


if __name__ == "__main__":
    main()
