"""What a worker tells a front end. Text is raw model output; `edgeapp.runtime` cleans it."""

from __future__ import annotations

from typing import Literal

import msgspec

FinishReason = Literal["stop", "length", "tool_calls", "cancelled"]
LoadPhase = Literal["starting", "checking", "weights", "context", "warmup"]
Channel = Literal["answer", "reasoning"]


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


class BufferUse(msgspec.Struct, frozen=True, kw_only=True):
    """What a model takes of one device's memory, in bytes; `device` "CPU" is host memory."""

    device: str
    weights_bytes: int
    kv_bytes: int
    compute_bytes: int


class Loaded(Event, frozen=True, kw_only=True, tag="loaded"):
    """The model is ready. `template` says where the chat template came from."""

    n_ctx: int
    n_ctx_train: int
    n_vocab: int
    n_parallel: int = 1
    n_expert: int = 0
    n_expert_used: int = 0
    n_embd: int = 0
    reasoning: bool = False
    """The template knows a reasoning channel."""
    tools: bool = False
    """The template knows tools, and their calls are parsed."""
    adapters: tuple[str, ...] = ()
    bos: int | None = None
    """The token that every text begins with; None when the vocabulary wants none."""
    n_threads: int
    template: Literal["gguf", "chatml"]
    buffers: tuple[BufferUse, ...] = ()
    """What llama.cpp allocated, for each device that holds something."""
    n_conversations: int = 0
    """Parked conversations that were taken in again."""
    load_s: float
    model_desc: str


class Notice(Event, frozen=True, kw_only=True, tag="notice"):
    """Something the user should know that is not an error."""

    code: str
    message: str
    hint: str = ""


class TokenLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """Log probability (natural) of a token under the model, before any sampler; `data` are its bytes."""

    token: int
    data: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()
    """The likeliest tokens at this position, best first."""


class Delta(Event, frozen=True, kw_only=True, tag="delta"):
    """The next piece of the answer, how many tokens it has so far, and how much of the context is used."""

    text: str
    channel: Channel = "answer"
    n_tokens: int
    n_ctx_used: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each token since the last `Delta`, when they were asked for."""


class ToolCallDelta(Event, frozen=True, kw_only=True, tag="tool_call_delta"):
    """A piece of the tool call number `index`. `call_id` and `name` come with its first piece only."""

    index: int
    call_id: str = ""
    name: str = ""
    arguments: str = ""
    n_tokens: int


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    """Prompt tokens whose KV was still there, so that they were not computed again."""
    reasoning_tokens: int = 0
    """Of `completion_tokens`, those before the answer."""


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds and tokens per second. A rate is 0 when nothing was measured."""

    load_s: float
    ttft_s: float
    prompt_tps: float
    decode_tps: float
    queue_s: float = 0.0
    """Wait for a free place among the answers that are decoded at the same time."""
    draft_tokens: int = 0
    draft_accepted: int = 0


class Done(Event, frozen=True, kw_only=True, tag="done"):
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    n_ctx: int
    n_ctx_used: int


def never_begun(*, id: int = 0, n_ctx: int = 0, queue_s: float = 0.0) -> Done:  # noqa: A002 - the field
    """Return the end of a request that was cancelled before anything was computed for it."""
    return Done(
        id=id,
        finish_reason="cancelled",
        usage=Usage(prompt_tokens=0, completion_tokens=0, cached_tokens=0),
        timings=Timings(load_s=0.0, ttft_s=0.0, prompt_tps=0.0, decode_tps=0.0, queue_s=queue_s),
        n_ctx=n_ctx,
        n_ctx_used=0,
    )


class Failed(Event, frozen=True, kw_only=True, tag="failed"):
    """The request ended with an error; `code` is one of `edgeapp.errors`."""

    code: str
    message: str
    hint: str = ""
    n_prompt: int = 0
    """With `context_overflow`: the tokens of the prompt, and how many fit."""
    n_ctx: int = 0


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


class Text(Event, frozen=True, kw_only=True, tag="text"):
    text: str


class TokenCount(Event, frozen=True, kw_only=True, tag="token_count"):
    n_tokens: int


class Embeddings(Event, frozen=True, kw_only=True, tag="embeddings"):
    """`vectors` are [n_texts, n_embd]."""

    vectors: tuple[tuple[float, ...], ...]
    n_tokens: int


class AdapterLoaded(Event, frozen=True, kw_only=True, tag="adapter_loaded"):
    name: str
    n_tensors: int = 0


class AdapterUnloaded(Event, frozen=True, kw_only=True, tag="adapter_unloaded"):
    name: str


class LayerUsage(msgspec.Struct, frozen=True, kw_only=True):
    """How often each expert of one layer was chosen: `counts` [n_expert]."""

    layer: int
    counts: tuple[int, ...]


class ExpertUsage(Event, frozen=True, kw_only=True, tag="expert_usage"):
    """Since the last `ExpertUsage` of the same request; `n_tokens` tokens were routed in each layer."""

    n_tokens: int
    layers: tuple[LayerUsage, ...]


class Probed(Event, frozen=True, kw_only=True, tag="probed"):
    """`shapes[i]` are the buffers of the i-th `ProbeShape`, empty where llama.cpp refuses it."""

    shapes: tuple[tuple[BufferUse, ...], ...]


class MachineMeasured(Event, frozen=True, kw_only=True, tag="machine_measured"):
    """Bytes per second and floating-point operations per second; 0 where there is no such thing."""

    ram_read_bps: float
    host_flops: float
    n_threads_best: int
    """The number of threads that read host memory fastest."""
    device_read_bps: float = 0.0
    device_flops: float = 0.0
    pinned_bps: float = 0.0
    pageable_bps: float = 0.0
    sync_s: float = 0.0
    """One small copy to the device and back."""


class Parked(Event, frozen=True, kw_only=True, tag="parked"):
    n_conversations: int
    bytes: int


class Dropped(Event, frozen=True, kw_only=True, tag="dropped"):
    n_conversations: int
    bytes: int


class LiveSet(Event, frozen=True, kw_only=True, tag="live_set"):
    """Answers `SetLive`."""


AnyEvent = (
    Hello
    | Progress
    | Loaded
    | Notice
    | Delta
    | ToolCallDelta
    | Done
    | Failed
    | Memory
    | Heartbeat
    | Tokens
    | Text
    | TokenCount
    | Embeddings
    | AdapterLoaded
    | AdapterUnloaded
    | ExpertUsage
    | LiveSet
    | Evaluated
    | Collected
    | Probed
    | MachineMeasured
    | Parked
    | Dropped
)
