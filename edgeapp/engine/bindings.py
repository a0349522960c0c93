"""The only door to llama.cpp: typed calls, return codes turned into errors, the log captured.

llama-cpp-python's structs change with every release, so its version is pinned and the layout is checked
at start against struct sizes and default values. Knows no protocol and no chat.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import importlib.util
import sys
import types
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NewType

from edgeapp.errors import BindingMismatch, EngineError, LoadFailed, NotEnoughMemory, UnsupportedModel
from edgeapp.protocol import Device

if TYPE_CHECKING:
    from collections.abc import Sequence

BINDING_VERSION = "0.3.36"
_STRUCT_BYTES = {"llama_model_params": 80, "llama_context_params": 160, "llama_batch": 56}
_MODEL_DEFAULTS = {"n_gpu_layers": -1, "split_mode": 1, "load_mode": -1, "use_extra_bufts": True}
_CONTEXT_DEFAULTS = {"n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "flash_attn_type": -1, "type_k": 1}

ModelHandle = NewType("ModelHandle", int)
ContextHandle = NewType("ContextHandle", int)
VocabHandle = NewType("VocabHandle", int)
SamplerHandle = NewType("SamplerHandle", int)

DecodeResult = Literal["ok", "aborted", "no_slot"]
KvType = Literal["f16", "f32"]
_GGML_TYPES: dict[KvType, int] = {"f32": 0, "f16": 1}  # ggml.h, enum ggml_type

_LOG_WARN, _LOG_ERROR = 3, 4  # ggml.h, enum ggml_log_level
_DEVICE_KINDS: tuple[Literal["cpu", "gpu", "igpu", "accel", "meta"], ...] = (
    "cpu",
    "gpu",
    "igpu",
    "accel",
    "meta",
)  # ggml-backend.h, enum ggml_backend_dev_type


def _import_binding() -> Any:
    """Import `llama_cpp.llama_cpp` without running `llama_cpp/__init__.py`.

    The package's own `__init__` imports its high-level API with numpy, diskcache and jinja2: 130 ms that
    nobody here needs.
    """
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.submodule_search_locations is None:
        raise BindingMismatch(
            "llama-cpp-python is not installed.",
            hint=f"`make run` builds it; elsewhere: pip install 'llama-cpp-python=={BINDING_VERSION}'",
        )
    package = types.ModuleType("llama_cpp")
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    is_new = sys.modules.setdefault("llama_cpp", package) is package
    try:
        return importlib.import_module("llama_cpp.llama_cpp")
    except (RuntimeError, OSError, AttributeError) as problem:
        raise BindingMismatch(
            f"The engine's library cannot be loaded: {problem}.",
            hint="`make clean run` builds it again.",
        ) from problem
    finally:
        if is_new:
            del sys.modules["llama_cpp"]  # whoever imports the whole package gets the whole package


def _check_binding() -> None:
    version = importlib.metadata.version("llama_cpp_python")
    if version != BINDING_VERSION:
        raise BindingMismatch(
            f"llama-cpp-python {version} is installed, edgeapp needs exactly {BINDING_VERSION}.",
            hint=f"pip install 'llama-cpp-python=={BINDING_VERSION}'",
        )
    sizes = {name: ctypes.sizeof(getattr(_c, name)) for name in _STRUCT_BYTES}
    model, context = _c.llama_model_default_params(), _c.llama_context_default_params()
    found_model = {name: getattr(model, name) for name in _MODEL_DEFAULTS}
    found_context = {name: getattr(context, name) for name in _CONTEXT_DEFAULTS}
    if (sizes, found_model, found_context) != (_STRUCT_BYTES, _MODEL_DEFAULTS, _CONTEXT_DEFAULTS):
        raise BindingMismatch(
            "The shared library and llama-cpp-python disagree about their structs.",
            hint="LLAMA_CPP_LIB_PATH may point at another build: unset it.",
        )


_c = _import_binding()
_check_binding()


@functools.cache
def ggml_function(name: str, restype: Any, *argtypes: Any) -> Any:
    """Find a ggml function that llama-cpp-python does not declare."""
    folder = Path(_c._lib._name).parent  # noqa: SLF001 - the folder that the binding really loaded from
    for library in ("libggml.so", "libggml-base.so"):
        try:
            function = getattr(ctypes.CDLL(str(folder / library)), name)
        except (AttributeError, OSError):
            continue
        function.restype, function.argtypes = restype, list(argtypes)
        return function
    raise BindingMismatch(
        f"{name} is missing from libggml in {folder}.", hint="`make clean run` builds it again."
    )


# Log -----------------------------------------------------------------------------------------------------

_recent_problems: deque[str] = deque(maxlen=20)


@_c.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _user_data: object) -> None:
    if level in (_LOG_WARN, _LOG_ERROR):
        line = text.decode("utf-8", "replace").rstrip()
        if level == _LOG_ERROR:
            _recent_problems.append(line)
        sys.stderr.write(line + "\n")


def _first_problem() -> str:
    """Return the first error that was logged since the last load; what follows it is usually its echo."""
    return _recent_problems[0].rstrip(".") if _recent_problems else "no reason given"


def start() -> None:
    """Initialise llama.cpp and take over its log: warnings and errors go to stderr."""
    _c.llama_log_set(_on_log, None)
    _c.llama_backend_init()


def stop() -> None:
    _c.llama_backend_free()


def system_info() -> str:
    """Return llama.cpp's line about CPU features and backends."""
    info: bytes = _c.llama_print_system_info()
    return info.decode("utf-8", "replace")


def devices() -> tuple[Device, ...]:
    """Return every compute device with its free and total bytes."""
    count = ggml_function("ggml_backend_dev_count", ctypes.c_size_t)
    get = ggml_function("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    return tuple(_device(ctypes.c_void_p(get(index))) for index in range(count()))


def _device(handle: ctypes.c_void_p) -> Device:
    text = ctypes.c_char_p
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    size_p = ctypes.POINTER(ctypes.c_size_t)
    ggml_function("ggml_backend_dev_memory", None, ctypes.c_void_p, size_p, size_p)(handle, free, total)
    return Device(
        name=ggml_function("ggml_backend_dev_name", text, ctypes.c_void_p)(handle).decode(),
        description=ggml_function("ggml_backend_dev_description", text, ctypes.c_void_p)(handle).decode(),
        kind=_DEVICE_KINDS[ggml_function("ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)(handle)],
        free_bytes=free.value,
        total_bytes=total.value,
    )


# Model ---------------------------------------------------------------------------------------------------


class _BufferOverride(ctypes.Structure):
    """llama.h, struct llama_model_tensor_buft_override; the binding leaves it untyped."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buft", ctypes.c_void_p))


EXPERT_TENSORS = rb"\.ffn_(up|down|gate|gate_up)_(ch|)exps"  # llama.cpp common/common.h, LLM_FFN_EXPS_REGEX


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    n_gpu_layers: int
    cpu_experts: bool
    use_mmap: bool
    repack: bool = True


def load_model(path: str, options: ModelOptions, on_progress: Callable[[float], bool]) -> ModelHandle:
    """Load a GGUF; `on_progress` gets 0 to 1 and returns False to give up.

    Raise `NotEnoughMemory`, `UnsupportedModel` or `LoadFailed`, told apart by llama.cpp's log.
    """
    callback = _c.llama_progress_callback(lambda fraction, _user_data: on_progress(fraction))
    params = _c.llama_model_default_params()
    params.n_gpu_layers = options.n_gpu_layers
    params.use_extra_bufts = options.repack
    params.load_mode = _c.LLAMA_LOAD_MODE_AUTO if options.use_mmap else _c.LLAMA_LOAD_MODE_NONE
    params.progress_callback = callback
    if options.cpu_experts:
        overrides = _expert_overrides()
        params.tensor_buft_overrides = ctypes.cast(overrides, ctypes.c_void_p)
    _recent_problems.clear()
    handle = _c.llama_model_load_from_file(path.encode(), params)
    if not handle:
        raise _load_error()
    return ModelHandle(handle)


def _expert_overrides() -> Any:
    cpu_buffer = ggml_function("ggml_backend_cpu_buffer_type", ctypes.c_void_p)()
    return (_BufferOverride * 2)(_BufferOverride(EXPERT_TENSORS, cpu_buffer), _BufferOverride(None, None))


def _load_error() -> EngineError | NotEnoughMemory | UnsupportedModel:
    log = " ".join(_recent_problems)
    if "unknown model architecture" in log:
        return UnsupportedModel(
            f"This build of llama.cpp does not know the model's architecture: {_first_problem()}.",
            hint="A newer edgeapp may support it.",
        )
    if any(sign in log for sign in ("unable to allocate", "failed to allocate", "out of memory")):
        return NotEnoughMemory(
            f"There is not enough memory for the model: {_first_problem()}.",
            hint="Close other programs, or choose a smaller quantisation or a smaller --ctx.",
        )
    return LoadFailed(
        f"llama.cpp could not load the model: {_first_problem()}.",
        hint="`edgeapp models verify` checks a downloaded file; a damaged one must be downloaded again.",
    )


def free_model(model: ModelHandle) -> None:
    _c.llama_model_free(model)


def model_desc(model: ModelHandle) -> str:
    buffer = ctypes.create_string_buffer(256)
    _c.llama_model_desc(model, buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace")


def model_n_ctx_train(model: ModelHandle) -> int:
    return int(_c.llama_model_n_ctx_train(model))


def model_has_decoder(model: ModelHandle) -> bool:
    return bool(_c.llama_model_has_decoder(model)) and not _c.llama_model_has_encoder(model)


def chat_template(model: ModelHandle) -> str | None:
    """Return the GGUF's default chat template, or None when it carries none."""
    template: bytes | None = _c.llama_model_chat_template(model, None)
    return template.decode("utf-8", "replace") if template else None


# Vocabulary ----------------------------------------------------------------------------------------------

VOCAB_TYPE_BPE = 2  # llama.h, enum llama_vocab_type


@dataclass(frozen=True, kw_only=True)
class VocabFacts:
    """`control_texts` and `user_defined_texts` are strings that special parsing turns into one token each."""

    n_tokens: int
    is_bpe: bool
    bos: int | None
    eos: int | None
    add_bos: bool
    control_texts: tuple[str, ...]
    user_defined_texts: tuple[str, ...]


def get_vocab(model: ModelHandle) -> VocabHandle:
    return VocabHandle(_c.llama_model_get_vocab(model))


def vocab_facts(vocab: VocabHandle) -> VocabFacts:
    n_tokens: int = _c.llama_vocab_n_tokens(vocab)
    bos, eos = _c.llama_vocab_bos(vocab), _c.llama_vocab_eos(vocab)
    control_texts, user_defined_texts = _special_texts(vocab, n_tokens)
    return VocabFacts(
        n_tokens=n_tokens,
        is_bpe=_c.llama_vocab_type(vocab) == VOCAB_TYPE_BPE,
        bos=bos if bos >= 0 else None,
        eos=eos if eos >= 0 else None,
        add_bos=bool(_c.llama_vocab_get_add_bos(vocab)),
        control_texts=control_texts,
        user_defined_texts=user_defined_texts,
    )


def _special_texts(vocab: VocabHandle, n_tokens: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the texts of control and of user-defined tokens, in one walk: each call costs a microsecond."""
    attribute, control, user_defined = (
        _c.llama_vocab_get_attr,
        _c.LLAMA_TOKEN_ATTR_CONTROL,
        _c.LLAMA_TOKEN_ATTR_USER_DEFINED,
    )
    attributes = ((token, attribute(vocab, token)) for token in range(n_tokens))
    special = [
        (token_text(vocab, token), bits) for token, bits in attributes if bits & (control | user_defined)
    ]
    return (
        tuple(text for text, bits in special if bits & control and text.strip()),
        tuple(text for text, bits in special if bits & user_defined and text.strip()),
    )


def token_text(vocab: VocabHandle, token: int) -> str:
    text: bytes = _c.llama_vocab_get_text(vocab, token)
    return text.decode("utf-8", "replace")


def is_eog(vocab: VocabHandle, token: int) -> bool:
    return bool(_c.llama_vocab_is_eog(vocab, token))


def tokenize(vocab: VocabHandle, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
    data = text.encode("utf-8", "replace")
    room = len(data) + 8  # never more tokens than bytes, plus BOS and EOS
    tokens = (ctypes.c_int32 * room)()
    count = _c.llama_tokenize(vocab, data, len(data), tokens, room, add_special, parse_special)
    if count < 0:
        raise EngineError(f"llama.cpp could not tokenise a text of {len(data)} bytes.")
    return tokens[:count]


def token_to_piece(vocab: VocabHandle, token: int) -> bytes:
    """Return the token's bytes; control tokens have none."""
    buffer = ctypes.create_string_buffer(256)
    length = _c.llama_token_to_piece(vocab, token, buffer, len(buffer), 0, False)
    if length < 0:
        buffer = ctypes.create_string_buffer(-length)
        length = _c.llama_token_to_piece(vocab, token, buffer, len(buffer), 0, False)
    return buffer.raw[:length]


# Context -------------------------------------------------------------------------------------------------


class AbortFlag:
    """Stops a running `llama_decode` on the CPU, from any thread.

    llama.cpp asks a C callback before every graph node whether to go on. A Python callback would take the
    GIL a thousand times a token; C's own `strlen` over a two-byte buffer answers the same question for
    nothing: 0 (go on) for an empty string, 1 (stop) otherwise.
    """

    def __init__(self) -> None:
        self._buffer = ctypes.create_string_buffer(2)
        self.data = ctypes.cast(self._buffer, ctypes.c_void_p)
        self.callback = ctypes.cast(ctypes.CDLL(None).strlen, _c.ggml_abort_callback)

    def set(self) -> None:
        self._buffer[0] = b"x"

    def clear(self) -> None:
        self._buffer[0] = b"\0"


@dataclass(frozen=True, kw_only=True)
class ContextOptions:
    """`n_outputs` tokens of a batch can have logits; the library reserves `n_vocab` floats for each."""

    n_ctx: int
    n_batch: int
    n_ubatch: int
    n_threads: int
    n_outputs: int = 1
    kv_type: KvType = "f16"


WatchNode = Callable[[int, bool], bool]
"""Gets a graph node's address: first with True, to say whether its data is wanted; if so then with False."""


def watch_callback(watch: WatchNode) -> Any:
    """Return `watch` as C calls it. It must not raise, and must be kept as long as the context."""
    return _c.ggml_backend_sched_eval_callback(lambda node, ask, _user_data: watch(node, ask))


def new_context(
    model: ModelHandle, options: ContextOptions, *, abort: AbortFlag | None, watch: Any = None
) -> ContextHandle:
    """Create a context for one sequence. Raise `NotEnoughMemory` or `LoadFailed`.

    `watch` comes from `watch_callback`. Without `abort` a running decode cannot be aborted.
    """
    params = _c.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = options.n_ctx, options.n_batch, options.n_ubatch
    params.n_threads = params.n_threads_batch = options.n_threads
    params.n_outputs_max = options.n_outputs
    params.type_k = params.type_v = _GGML_TYPES[options.kv_type]
    if options.kv_type == "f32":
        params.flash_attn_type = _c.LLAMA_FLASH_ATTN_TYPE_DISABLED  # the CPU's computes in F16 all the same
    if abort is not None:
        params.abort_callback, params.abort_callback_data = abort.callback, abort.data
    if watch is not None:
        params.cb_eval = watch
    _recent_problems.clear()
    handle = _c.llama_init_from_model(model, params)
    if not handle:
        problem = _load_error()
        raise (
            problem
            if isinstance(problem, NotEnoughMemory)
            else LoadFailed(
                f"llama.cpp could not create a context of {options.n_ctx} tokens: {_first_problem()}.",
                hint="A smaller --ctx needs less memory.",
            )
        )
    return ContextHandle(handle)


def free_context(context: ContextHandle) -> None:
    _c.llama_free(context)


def context_n_ctx(context: ContextHandle) -> int:
    return int(_c.llama_n_ctx(context))


def context_n_batch(context: ContextHandle) -> int:
    """Return the most tokens of one decode; llama.cpp lowers what was asked for to the context."""
    return int(_c.llama_n_batch(context))


class Batch:
    """A reusable `llama_batch` for sequence 0, up to `capacity` tokens."""

    def __init__(self, capacity: int) -> None:
        self._batch = _c.llama_batch_init(capacity, 0, 1)
        # Arrays over the batch's memory: a pointer field would make a new ctypes object at every access.
        self._tokens = _array_at(self._batch.token, ctypes.c_int32, capacity)
        self._positions = _array_at(self._batch.pos, ctypes.c_int32, capacity)
        self._logits = _array_at(self._batch.logits, ctypes.c_int8, capacity)
        for index in range(capacity):
            self._batch.n_seq_id[index] = 1
            self._batch.seq_id[index][0] = 0
            self._logits[index] = 0

    def free(self) -> None:
        _c.llama_batch_free(self._batch)

    def decode(
        self, context: ContextHandle, tokens: Sequence[int], *, n_past: int, n_logits: int
    ) -> DecodeResult:
        """Decode `tokens` at positions `n_past`, …; logits are computed for the last `n_logits` of them.

        Raise `EngineError` when llama.cpp reports a fatal error; the KV cache may then hold part of it.
        """
        count = len(tokens)
        self._batch.n_tokens = count
        self._tokens[:count] = tuple(tokens)
        self._positions[:count] = tuple(range(n_past, n_past + count))
        wanted = slice(count - n_logits, count)
        self._logits[wanted] = (1,) * n_logits
        code = _c.llama_decode(context, self._batch)
        self._logits[wanted] = (0,) * n_logits
        return "ok" if code == 0 else _decode_result(code)


def logits(context: ContextHandle, n_floats: int) -> memoryview:
    """Return the logits of the last decode, row after row; valid until the next one."""
    return memoryview(_array_at(_c.llama_get_logits(context), ctypes.c_float, n_floats)).cast("B")


def _array_at(pointer: Any, element: Any, length: int) -> Any:
    return (element * length).from_address(ctypes.addressof(pointer.contents))


def _decode_result(code: int) -> DecodeResult:
    match code:
        case 1:
            return "no_slot"
        case 2:
            return "aborted"
        case -1:
            raise EngineError("llama.cpp refused the batch as invalid (code -1).")
    raise EngineError(f"llama.cpp failed while decoding (code {code}): {_first_problem()}.")


def kv_truncate(context: ContextHandle, n_keep: int) -> bool:
    """Forget everything from position `n_keep` on; False when the model cannot (recurrent state)."""
    return bool(_c.llama_memory_seq_rm(_c.llama_get_memory(context), 0, n_keep, -1))


def kv_clear(context: ContextHandle) -> None:
    _c.llama_memory_clear(_c.llama_get_memory(context), False)


def kv_length(context: ContextHandle) -> int:
    """Return how many positions of sequence 0 are in the KV cache."""
    return int(_c.llama_memory_seq_pos_max(_c.llama_get_memory(context), 0)) + 1


# Sampler -------------------------------------------------------------------------------------------------


def sampler_chain(links: Sequence[SamplerHandle]) -> SamplerHandle:
    """Join samplers into a chain, which then owns them."""
    params = _c.llama_sampler_chain_default_params()
    params.no_perf = True
    chain = _c.llama_sampler_chain_init(params)
    for link in links:
        _c.llama_sampler_chain_add(chain, link)
    return SamplerHandle(chain)


def sampler_greedy() -> SamplerHandle:
    return SamplerHandle(_c.llama_sampler_init_greedy())


def sampler_top_k(k: int) -> SamplerHandle:
    return SamplerHandle(_c.llama_sampler_init_top_k(k))


def sampler_top_p(p: float) -> SamplerHandle:
    return SamplerHandle(_c.llama_sampler_init_top_p(p, 1))


def sampler_min_p(p: float) -> SamplerHandle:
    return SamplerHandle(_c.llama_sampler_init_min_p(p, 1))


def sampler_temp(temp: float) -> SamplerHandle:
    return SamplerHandle(_c.llama_sampler_init_temp(temp))


def sampler_dist(seed: int) -> SamplerHandle:
    return SamplerHandle(_c.llama_sampler_init_dist(seed))


def sampler_logit_bias(n_vocab: int, biases: Sequence[tuple[int, float]]) -> SamplerHandle:
    array = (_c.llama_logit_bias * len(biases))(*((token, bias) for token, bias in biases))
    return SamplerHandle(_c.llama_sampler_init_logit_bias(n_vocab, len(biases), array))


def sample(sampler: SamplerHandle, context: ContextHandle) -> int:
    """Choose the next token from the last logits and tell the sampler about it."""
    return int(_c.llama_sampler_sample(sampler, context, -1))


def free_sampler(sampler: SamplerHandle) -> None:
    _c.llama_sampler_free(sampler)
