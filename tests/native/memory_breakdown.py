"""Ask llama.cpp itself what a placement takes of each device, without loading a byte of weights.

    python -m tests.native.memory_breakdown SHIM [ENDPOINT]      one placement a line (JSON) on stdin

Independent of edgeapp's engine on purpose: the stock binding, llama.h's structs and a C++ shim, in a process
of its own. `ENDPOINT` is the loopback device that stands in for a GPU.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_HERE = Path(__file__).parent
_GGML_TYPES = {"f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8}  # ggml.h, enum ggml_type
_ALL_LAYERS = 999


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What is passed to llama.cpp. An override's buffer is "CPU" or a device's name.

    All sequences share the cells, and layers with a sliding window keep the whole text, as in our engine.
    """

    path: str
    n_ctx: int
    n_ubatch: int = 512
    n_sequences: int = 1
    n_outputs: int = 1
    kv_type: str = "f16"
    n_gpu_layers: int = _ALL_LAYERS
    overrides: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Use:
    """Bytes of one device."""

    weights: int = 0
    kv: int = 0
    compute: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.compute


def build_shim(folder: Path) -> Path:
    """Compile `breakdown.cpp` and return the library; it finds llama.cpp in the process that loads it."""
    shim, headers = folder / "breakdown.so", _binding_folder().parent / "include"
    command = ["g++", "-shared", "-fPIC", "-std=c++17", "-O1", f"-I{headers}", "-o", str(shim)]
    subprocess.run([*command, str(_HERE / "breakdown.cpp")], check=True)
    return shim


def breakdowns(
    shim: Path, placements: Sequence[Placement], *, endpoint: str = ""
) -> list[dict[str, Use] | None]:
    """Return bytes by device for each placement; None where llama.cpp refuses it."""
    command = [sys.executable, "-m", "tests.native.memory_breakdown", str(shim), endpoint]
    asked = "".join(json.dumps(asdict(placement)) + "\n" for placement in placements)
    ended = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise RuntimeError(f"llama.cpp ended with {ended.returncode}: {ended.stderr[-2000:]}")
    return [_uses(line) for line in ended.stdout.splitlines()]


def _uses(line: str) -> dict[str, Use] | None:
    found: dict[str, list[int]] | None = json.loads(line)
    if found is None:
        return None
    return {device: Use(weights=w, kv=kv, compute=compute) for device, (w, kv, compute) in found.items()}


def _binding_folder() -> Path:
    import importlib.util

    spec = importlib.util.find_spec("llama_cpp")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


class _Override(ctypes.Structure):
    """llama.h, struct llama_model_tensor_buft_override."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buft", ctypes.c_void_p))


class _Llama:
    """The stock binding, and what of ggml it does not declare."""

    def __init__(self, shim: str, endpoint: str) -> None:
        import llama_cpp.llama_cpp

        self.c: Any = llama_cpp.llama_cpp
        # The wheel holds copies where links are meant: libggml.so and libggml.so.0 would be two registries,
        # and an RPC device of libggml-rpc.so a stranger to libllama (which then gives up flash attention).
        # So everything is looked up in what libllama itself has loaded.
        self._loaded = ctypes.CDLL(self.c._lib._name, mode=ctypes.RTLD_GLOBAL)
        self._shim = ctypes.CDLL(shim)
        self._quiet = self.c.llama_log_callback(lambda _level, _text, _data: None)
        self.c.llama_log_set(self._quiet, None)
        self.c.llama_backend_init()
        if endpoint:
            self._register(endpoint)

    def _register(self, endpoint: str) -> None:
        add = self._loaded.ggml_backend_rpc_add_server
        add.restype, add.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
        self._loaded.ggml_backend_register.argtypes = [ctypes.c_void_p]
        self._loaded.ggml_backend_register(add(endpoint.encode()))

    def _buffer_type(self, buffer: str) -> int | None:
        if buffer == "CPU":
            cpu = self._loaded.ggml_backend_cpu_buffer_type
            cpu.restype = ctypes.c_void_p
            return int(cpu())
        by_name, of_device = self._loaded.ggml_backend_dev_by_name, self._loaded.ggml_backend_dev_buffer_type
        by_name.restype, by_name.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
        of_device.restype, of_device.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
        return int(of_device(by_name(buffer.encode())))

    def breakdown(self, placement: Placement) -> dict[str, list[int]] | None:
        """Return [weights, kv, compute] bytes by device."""
        overrides = [_Override(p.encode(), self._buffer_type(buffer)) for p, buffer in placement.overrides]
        table = (_Override * (len(overrides) + 1))(*overrides, _Override(None, None))
        params = self.c.llama_model_default_params()
        params.no_alloc, params.load_mode = True, self.c.LLAMA_LOAD_MODE_NONE
        params.n_gpu_layers = placement.n_gpu_layers
        params.tensor_buft_overrides = ctypes.cast(table, ctypes.c_void_p)
        model = self.c.llama_model_load_from_file(placement.path.encode(), params)
        if not model:
            return None
        context = self.c.llama_init_from_model(model, self._context_params(placement))
        found = self._read(context) if context else None
        if context:
            self.c.llama_free(context)
        self.c.llama_model_free(model)
        return found

    def _context_params(self, placement: Placement) -> Any:
        params = self.c.llama_context_default_params()
        params.n_ctx, params.n_ubatch = placement.n_ctx, placement.n_ubatch
        params.n_batch, params.n_seq_max = placement.n_ubatch, placement.n_sequences
        params.type_k = params.type_v = _GGML_TYPES[placement.kv_type]
        params.n_outputs_max, params.kv_unified, params.swa_full = placement.n_outputs, True, True
        return params

    def _read(self, context: int) -> dict[str, list[int]]:
        text = ctypes.create_string_buffer(4096)
        self._shim.breakdown.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
        assert self._shim.breakdown(context, text, len(text)) < len(text)
        lines = [line.split("\t") for line in text.value.decode().splitlines()]
        return {device: [int(number) for number in numbers] for device, *numbers in lines}


def _main() -> None:
    shim, endpoint = sys.argv[1:]
    llama = _Llama(shim, endpoint)
    for line in sys.stdin:
        values = json.loads(line)
        values["overrides"] = tuple((pattern, buffer) for pattern, buffer in values["overrides"])
        sys.stdout.write(json.dumps(llama.breakdown(Placement(**values))) + "\n")


if __name__ == "__main__":
    _main()
