"""What a front end may ask of a worker."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from edgeapp.protocol.choice import AdapterUse, Drafting, Grammar, Sampling
from edgeapp.protocol.conversation import Message, Tool  # noqa: TC001 - msgspec reads annotations

Priority = Literal["interactive", "batch"]
Pooling = Literal["auto", "mean", "cls", "last"]
KvType = Literal["f32", "f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
LoadMode = Literal["mmap", "none"]


class Request(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    id: int = 0
    """Given by the client that sends it."""


class TensorOverride(msgspec.Struct, frozen=True, kw_only=True):
    """Tensors whose name `pattern` (a regular expression) is found in go to `buffer`: "CPU" or a device."""

    pattern: str
    buffer: str


class Load(Request, frozen=True, kw_only=True, tag="load"):
    """Load a model. Answered by `Progress` events, then `Loaded` or `Failed`."""

    path: str
    n_ctx: int
    """How many tokens one conversation may have."""
    n_threads: int
    n_ubatch: int = 512
    device: str = ""
    """The GPU to use, by ggml's name; empty is none, whatever the machine has."""
    n_gpu_layers: int = 0
    tensor_overrides: tuple[TensorOverride, ...] = ()
    """The first that matches a tensor wins over `n_gpu_layers`."""
    load_mode: LoadMode = "mmap"
    """`none` reads the weights into private memory, page-locked where a GPU copies from it."""
    repack: bool = True
    """Copy weights into the layout that the CPU computes fastest with, which takes their size in private
    memory. False leaves them in the mapped file."""
    kv_type: KvType = "f16"
    """Type of keys and values in the KV cache. F32 is for comparing logits: some routers flip with F16. It
    turns flash attention off, which computes in F16 on the CPU."""
    n_parallel: int = 1
    """How many answers are decoded at the same time."""
    n_kv: int = 0
    """Tokens that the KV cache holds for all sequences together; 0 is `n_ctx`. Many answers get a part of it
    each when there is `n_ctx` for every one, else they share it."""
    cache_ram_bytes: int = 0
    """Host memory for conversations that had to leave the KV cache; 0 drops them."""
    parked_folder: str = ""
    """Where `Park` of an earlier worker left its conversations: they are taken in and the files deleted."""
    prefix_folder: str = ""
    """Where the KV of preset prefixes is kept between starts; empty keeps none."""
    n_expert_used: int = 0
    """Experts that each token uses; 0 is what the model was trained with."""
    draft_path: str = ""
    """A small model with the same vocabulary that drafts for this one; empty is none."""
    n_outputs: int = 0
    """For how many tokens of a micro-batch logits can be computed; each costs `n_vocab` floats. 0 is what
    `n_parallel` answers with their drafts need."""
    collect: bool = False
    """Watch every matrix multiplication, for `Collect`. Slower, and a running decode cannot be aborted."""
    watch_experts: bool = False
    """Count which experts are used, for `ExpertUsage` events and `ReadExpertUsage`."""


class Generate(Request, frozen=True, kw_only=True, tag="generate"):
    """Answer a conversation. Answered by `Progress` (prefill), `Delta`s, then `Done` or `Failed`."""

    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    """Continue this text as it is, without a chat template, instead of answering `messages`."""
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    """auto, none, required, or the name of the one tool to call."""
    template_options: dict[str, Any] = {}
    """Variables for the chat template, such as `enable_thinking` or `reasoning_effort`."""
    sampling: Sampling = Sampling()
    grammar: Grammar | None = None
    """Constrains the answer, not the reasoning before it."""
    drafting: Drafting = Drafting()
    adapters: tuple[AdapterUse, ...] = ()
    max_tokens: int = 0
    """0 means until the model ends its answer or the context is full."""
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: int = -1
    """With how many alternatives each token's log probability is reported, 0 to 20; -1 reports none."""
    priority: Priority = "interactive"
    n_prefix_messages: int = 0
    """How many leading messages are a preset's, the same in every conversation: their KV is shared between
    conversations and kept on disk."""
    raw: bool = False
    """Put reasoning and tool calls into the text as the model wrote them."""


class Cancel(Request, frozen=True, kw_only=True, tag="cancel"):
    """End request `target` at once; it answers with `Done(finish_reason="cancelled")`."""

    target: int


class Tokenize(Request, frozen=True, kw_only=True, tag="tokenize"):
    """Count and list the tokens of `text`. Answered by `Tokens` or `Failed`."""

    text: str
    add_special: bool = False
    parse_special: bool = False


class Detokenize(Request, frozen=True, kw_only=True, tag="detokenize"):
    """Turn tokens into text. Answered by `Text` or `Failed`."""

    tokens: tuple[int, ...]
    special: bool = False
    """Spell control tokens out."""


class CountTokens(Request, frozen=True, kw_only=True, tag="count_tokens"):
    """Count the tokens of a conversation as its prompt will have them. Answered by `TokenCount`."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    template_options: dict[str, Any] = {}


class Embed(Request, frozen=True, kw_only=True, tag="embed"):
    """Embed each text. Answered by `Embeddings` or `Failed`."""

    texts: tuple[str, ...]
    pooling: Pooling = "auto"
    """`auto` is what the model declares, else the mean."""
    normalize: bool = True


class LoadAdapter(Request, frozen=True, kw_only=True, tag="load_adapter"):
    """Read a LoRA adapter (GGUF) beside the model. Answered by `AdapterLoaded` or `Failed`."""

    name: str
    path: str


class UnloadAdapter(Request, frozen=True, kw_only=True, tag="unload_adapter"):
    """Forget an adapter that no running answer uses. Answered by `AdapterUnloaded` or `Failed`."""

    name: str


class SetLive(Request, frozen=True, kw_only=True, tag="set_live"):
    """Turn `ExpertUsage` events on or off; only a model loaded with `watch_experts` has them."""

    expert_usage: bool


class ReadExpertUsage(Request, frozen=True, kw_only=True, tag="read_expert_usage"):
    """Decode `tokens` from an empty KV cache and count the experts. Answered by `Progress`, `ExpertUsage`.

    The model must have been loaded with `watch_experts`.
    """

    tokens: tuple[int, ...]


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


class ProbeShape(msgspec.Struct, frozen=True, kw_only=True):
    """A placement whose buffers are to be known; fields as in `Load`."""

    n_ctx: int
    n_ubatch: int
    n_parallel: int = 1
    kv_type: KvType = "f16"
    device: str = ""
    n_gpu_layers: int = 0
    tensor_overrides: tuple[TensorOverride, ...] = ()


class Probe(Request, frozen=True, kw_only=True, tag="probe"):
    """Say what buffers the model at `path` would need, without its weights. Answered by `Probed`.

    For a worker that has loaded nothing.
    """

    path: str
    n_threads: int
    shapes: tuple[ProbeShape, ...]


class MeasureMachine(Request, frozen=True, kw_only=True, tag="measure_machine"):
    """Measure memory and copies of the host and of `device`. Answered by `MachineMeasured`.

    For a worker that has loaded nothing.
    """

    n_threads: int
    device: str = ""


class Park(Request, frozen=True, kw_only=True, tag="park"):
    """Write the KV of every conversation to `folder`, for another worker. Answered by `Parked`."""

    folder: str


class DropCaches(Request, frozen=True, kw_only=True, tag="drop_caches"):
    """Forget conversations that nobody continues at the moment, and their memory. Answered by `Dropped`."""


class Shutdown(Request, frozen=True, kw_only=True, tag="shutdown"):
    """Free everything and exit with status 0."""


AnyRequest = (
    Load
    | Generate
    | Cancel
    | Tokenize
    | Detokenize
    | CountTokens
    | Embed
    | LoadAdapter
    | UnloadAdapter
    | SetLive
    | ReadExpertUsage
    | Evaluate
    | Collect
    | WriteImatrix
    | Probe
    | MeasureMachine
    | Park
    | DropCaches
    | Shutdown
)
