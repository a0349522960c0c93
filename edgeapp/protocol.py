"""The messages between a front end's process and its engine worker: one JSON line each.

This is the only vocabulary both sides share. Every request has an `id`, every event about a request
carries it, so one worker can serve many requests at once. Text in events is raw model output;
`edgeapp.runtime` cleans it before anyone shows it. Nothing here does I/O.
"""

from __future__ import annotations

from typing import Literal

import msgspec

PROTOCOL_VERSION = 2

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "cancelled"]
LoadPhase = Literal["starting", "checking", "weights", "context", "warmup"]


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One turn of a conversation."""

    role: Role
    content: str


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How the next token is chosen. Defaults are llama.cpp's (common/common.h, common_params_sampling)."""

    temp: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    seed: int | None = None
    """None draws a fresh seed for every request; greedy (`temp` 0) needs none."""


# Requests ------------------------------------------------------------------------------------------------


class Request(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    id: int


class Load(Request, frozen=True, kw_only=True, tag="load"):
    """Load a model. Answered by `Progress` events, then `Loaded` or `Failed`."""

    path: str
    n_ctx: int
    n_threads: int
    n_ubatch: int = 512
    n_gpu_layers: int = 0
    cpu_experts: bool = False
    """Keep routed experts in host memory although their layer is on the GPU."""
    use_mmap: bool = True
    repack: bool = True
    """Copy weights into the layout that the CPU computes fastest with, which takes their size in private
    memory. False leaves them in the mapped file."""
    kv_type: Literal["f16", "f32"] = "f16"
    """Type of keys and values in the KV cache. F32 is for comparing logits: some routers flip with F16. It
    turns flash attention off, which computes in F16 on the CPU."""
    n_outputs: int = 1
    """For how many tokens of a micro-batch logits can be computed; each costs `n_vocab` floats. A chat needs
    those of one token."""
    collect: bool = False
    """Watch every matrix multiplication, for `Collect`. Slower, and a running decode cannot be aborted."""


class Generate(Request, frozen=True, kw_only=True, tag="generate"):
    """Answer a conversation. Answered by `Progress` (prefill), `Delta`s, then `Done` or `Failed`."""

    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    max_tokens: int = 0
    """0 means until the model ends its answer or the context is full."""
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False


class Cancel(Request, frozen=True, kw_only=True, tag="cancel"):
    """End request `target` at once; it answers with `Done(finish_reason="cancelled")`."""

    target: int


class Tokenize(Request, frozen=True, kw_only=True, tag="tokenize"):
    """Count and list the tokens of `text`. Answered by `Tokens` or `Failed`."""

    text: str
    add_special: bool = False
    parse_special: bool = False


class Evaluate(Request, frozen=True, kw_only=True, tag="evaluate"):
    """Write the logits of `tokens` from index `first_logits` on. Answered by `Progress`, then `Evaluated`.

    `file` exists and is filled with float32 rows [len(tokens) - first_logits, n_vocab]. No chat template is
    applied. The KV cache starts empty, unless `reuse_prefix` lets tokens stay that `tokens` begins with.
    """

    tokens: tuple[int, ...]
    first_logits: int
    file: str
    reuse_prefix: bool = False


class Collect(Request, frozen=True, kw_only=True, tag="collect"):
    """Decode `tokens` from an empty KV cache and add up squared inputs. Answered like `Evaluate`.

    The model must have been loaded with `collect`. Inputs of the tensors `keep_inputs` are appended as
    float16 rows, one a token, to files `0.f16`, `1.f16`, … in `inputs_folder`, in the order of the names.
    """

    tokens: tuple[int, ...]
    keep_inputs: tuple[str, ...] = ()
    inputs_folder: str = ""


class WriteImatrix(Request, frozen=True, kw_only=True, tag="write_imatrix"):
    """Write what all `Collect`s added up, as llama.cpp's importance matrix. Answered by `Collected`."""

    file: str
    datasets: tuple[str, ...] = ()
    chunk_size: int = 512
    """Tokens of each `Collect`; goes into the file."""


class Shutdown(Request, frozen=True, kw_only=True, tag="shutdown"):
    """Free everything and exit with status 0."""


AnyRequest = Load | Generate | Cancel | Tokenize | Evaluate | Collect | WriteImatrix | Shutdown

# Events --------------------------------------------------------------------------------------------------


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    id: int = 0
    """The request this is about; 0 when it is about the worker itself."""


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A compute device as ggml sees it."""

    name: str
    description: str
    kind: Literal["cpu", "gpu", "igpu", "accel", "meta"]
    free_bytes: int
    total_bytes: int


class Hello(Event, frozen=True, kw_only=True, tag="hello"):
    """The first line a worker writes."""

    protocol_version: int
    pid: int
    binding_version: str
    system_info: str
    devices: tuple[Device, ...]


class Progress(Event, frozen=True, kw_only=True, tag="progress"):
    """How far a load or a prefill is; `fraction` runs from 0 to 1."""

    phase: LoadPhase | Literal["prefill"]
    fraction: float


class Loaded(Event, frozen=True, kw_only=True, tag="loaded"):
    """The model is ready. `template` says where the chat template came from."""

    n_ctx: int
    n_ctx_train: int
    n_vocab: int
    bos: int | None = None
    """The token that every text begins with; None when the vocabulary wants none."""
    n_threads: int
    template: Literal["gguf", "chatml"]
    load_s: float
    model_desc: str


class Notice(Event, frozen=True, kw_only=True, tag="notice"):
    """Something the user should know that is not an error."""

    code: str
    message: str
    hint: str = ""


class Delta(Event, frozen=True, kw_only=True, tag="delta"):
    """The next piece of the answer, how many tokens it has so far, and how much of the context is used."""

    text: str
    n_tokens: int
    n_ctx_used: int = 0


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    """Prompt tokens whose KV was still there, so that they were not computed again."""


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds and tokens per second. A rate is 0 when nothing was measured."""

    load_s: float
    ttft_s: float
    prompt_tps: float
    decode_tps: float


class Done(Event, frozen=True, kw_only=True, tag="done"):
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    n_ctx: int
    n_ctx_used: int


class Failed(Event, frozen=True, kw_only=True, tag="failed"):
    """The request ended with an error; `code` is one of `edgeapp.errors`."""

    code: str
    message: str
    hint: str = ""


class Memory(Event, frozen=True, kw_only=True, tag="memory"):
    """What the worker holds now: resident host memory, and each GPU's free and total bytes."""

    rss_bytes: int
    devices: tuple[Device, ...] = ()


class Heartbeat(Event, frozen=True, kw_only=True, tag="heartbeat"):
    """The decode loop is alive."""


class Tokens(Event, frozen=True, kw_only=True, tag="tokens"):
    ids: tuple[int, ...]


class Evaluated(Event, frozen=True, kw_only=True, tag="evaluated"):
    n_rows: int
    n_vocab: int


class Collected(Event, frozen=True, kw_only=True, tag="collected"):
    """`n_tokens` counts all that were collected since the model was loaded."""

    n_tokens: int


AnyEvent = (
    Hello
    | Progress
    | Loaded
    | Notice
    | Delta
    | Done
    | Failed
    | Memory
    | Heartbeat
    | Tokens
    | Evaluated
    | Collected
)

_encoder = msgspec.json.Encoder()
_requests: msgspec.json.Decoder[AnyRequest] = msgspec.json.Decoder(AnyRequest)
_events: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


def encode(message: Request | Event) -> bytes:
    """Return one line, newline included."""
    return _encoder.encode(message) + b"\n"


def decode_request(line: bytes) -> AnyRequest:
    """Raise `msgspec.ValidationError` or `msgspec.DecodeError` for anything that is not a request."""
    return _requests.decode(line)


def decode_event(line: bytes) -> AnyEvent:
    """Raise `msgspec.ValidationError` or `msgspec.DecodeError` for anything that is not an event."""
    return _events.decode(line)
