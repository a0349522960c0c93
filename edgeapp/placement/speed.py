"""How long a request takes in a placement: a price per byte and per parameter on each side. Pure.

Everything is linear on purpose: work that moves to slower memory never makes a request faster, so more GPU
memory is never predicted to be slower, and a price list serves hundreds of placements.

Decode, one token (research: reported speeds fit within 3 to 6 %, ggml-org/llama.cpp and llmfit threads):
    dense bytes / bandwidth + expert bytes · n_expert_used/n_expert / bandwidth, each where it lies,
    + KV bytes / bandwidth + a synchronisation for every layer that leaves the GPU for its experts
    + what starting a layer's kernels costs (LAYER_S) for every layer on the GPU.
Prefill, one micro-batch of t tokens:
    bytes touched / bandwidth + 2 · active parameters · t / flops, where it is computed.
    Of the experts 1 - (1 - n_expert_used/n_expert)^t are touched. Weights in host memory are copied to the
    GPU and computed there when t is at least 32 (ggml-cuda.cu, GGML_OP_OFFLOAD_MIN_BATCH), only the experts
    in use (ggml-org/llama.cpp#15346), at the pinned or the pageable speed; else the CPU computes them.
Attention: 4 · query width · tokens² / 2 operations for each layer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from edgeapp.placement.machine import Machine
    from edgeapp.placement.shape import ModelShape
    from edgeapp.placement.split import Split

OFFLOAD_MIN_TOKENS = 32  # ggml-cuda.cu, op_offload_min_batch_size
DISK_READ_BPS = 1e9
"""Paging mapped weights in: scattered reads of a usual NVMe drive, a few hundred kilobytes each."""


LAYER_S = 60e-6
"""One layer of a single token on a GPU, bandwidth apart: what is left of the reported 167 and 196 tok/s of
Qwen3-30B-A3B on a 3090 Ti and a 4090, and 225 of gpt-oss-20b on a 4090 (smeltcore.com, runaihome.com)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """Seconds for each unit that a split has on a side; some of them are 0."""

    device_dense_byte_s: float = 0.0
    device_expert_byte_s: float = 0.0
    device_parameter_s: float = 0.0
    device_layer_s: float = 0.0
    device_attention_s: float = 0.0
    host_dense_byte_s: float = 0.0
    host_expert_byte_s: float = 0.0
    host_parameter_s: float = 0.0
    host_attention_s: float = 0.0
    offloaded_parameter_s: float = 0.0
    """In host memory, but computed on the GPU."""
    copied_dense_byte_s: float = 0.0
    copied_expert_byte_s: float = 0.0
    paged_dense_byte_s: float = 0.0
    paged_expert_byte_s: float = 0.0
    """For the part of the host's weights that has to come from the disk."""
    device_cache_byte_s: float = 0.0
    host_cache_byte_s: float = 0.0
    stop_s: float = 0.0

    def plus(self, other: Prices, *, times: int) -> Prices:
        """Return the prices of this and `times` of `other`."""
        return Prices(**{name: getattr(self, name) + times * getattr(other, name) for name in self.__slots__})


class Parts(NamedTuple):
    """Seconds by cause."""

    device_reading: float
    host_reading: float
    copying: float
    device_computing: float
    host_computing: float
    launching: float
    cache_reading: float
    stops: float
    paging: float

    @property
    def total_s(self) -> float:
        return sum(self)

    def __add__(self, other: object) -> Parts:
        """Add cause by cause, not as tuples."""
        if not isinstance(other, Parts):
            return NotImplemented
        return Parts(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def times(self, n: float) -> Parts:
        return Parts(*(n * one for one in self))


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheRead:
    """Bytes of KV that a token reads on each side."""

    device_bytes: int
    host_bytes: int


def parts(
    prices: Prices, split: Split, cache: CacheRead, *, n_device_layers: int, paged_share: float
) -> Parts:
    """Return what `split` costs; `paged_share` of the host's weights is not in memory, 0 to 1."""
    device, host = split.device, split.host
    return Parts(
        device_reading=device.dense_bytes * prices.device_dense_byte_s
        + device.expert_bytes * prices.device_expert_byte_s,
        host_reading=host.dense_bytes * prices.host_dense_byte_s
        + host.expert_bytes * prices.host_expert_byte_s,
        copying=host.dense_bytes * prices.copied_dense_byte_s
        + host.expert_bytes * prices.copied_expert_byte_s,
        device_computing=device.parameters * prices.device_parameter_s
        + device.attention_width * prices.device_attention_s
        + host.parameters * prices.offloaded_parameter_s,
        host_computing=host.parameters * prices.host_parameter_s
        + host.attention_width * prices.host_attention_s,
        launching=n_device_layers * prices.device_layer_s,
        cache_reading=cache.device_bytes * prices.device_cache_byte_s
        + cache.host_bytes * prices.host_cache_byte_s,
        stops=split.n_stops * prices.stop_s,
        paging=paged_share
        * (host.dense_bytes * prices.paged_dense_byte_s + host.expert_bytes * prices.paged_expert_byte_s),
    )


def decode_prices(shape: ModelShape, machine: Machine) -> Prices:
    """Return the prices of one token."""
    share = shape.expert_share
    host_byte_s = _each(machine.host.ram_read_bps)
    device_byte_s, layer_s, stop_s = 0.0, 0.0, 0.0
    if machine.device is not None:
        device_byte_s, layer_s = _each(machine.device.read_bps), LAYER_S
        stop_s = machine.device.sync_s
    return Prices(
        device_dense_byte_s=device_byte_s,
        device_expert_byte_s=device_byte_s * share,
        device_layer_s=layer_s,
        host_dense_byte_s=host_byte_s,
        host_expert_byte_s=host_byte_s * share,
        paged_dense_byte_s=1 / DISK_READ_BPS,
        paged_expert_byte_s=share / DISK_READ_BPS,
        device_cache_byte_s=device_byte_s,
        host_cache_byte_s=host_byte_s,
        stop_s=stop_s,
    )


def prefill_prices(
    shape: ModelShape, machine: Machine, *, n_prompt: int, n_ubatch: int, is_pinned: bool, uses_device: bool
) -> Prices:
    """Return the prices of reading `n_prompt` tokens in micro-batches of `n_ubatch`."""
    device = machine.device if uses_device else None
    chunks = [(n_ubatch, n_prompt // n_ubatch), (n_prompt % n_ubatch, 1)]
    copied = [chunk for chunk in chunks if device and device.can_offload and chunk[0] >= OFFLOAD_MIN_TOKENS]
    computed = [chunk for chunk in chunks if chunk not in copied]
    host_byte_s, host_flop_s = _each(machine.host.ram_read_bps), _each(machine.host.compute_flops)
    attention_flops = 2.0 * n_prompt**2
    host = Prices(
        host_dense_byte_s=_passes(computed) * host_byte_s,
        host_expert_byte_s=_touched(shape, computed) * host_byte_s,
        host_parameter_s=2 * _tokens(computed) * host_flop_s,
        host_attention_s=attention_flops * host_flop_s,
        paged_dense_byte_s=_passes(chunks) / DISK_READ_BPS,
        paged_expert_byte_s=_touched(shape, chunks) / DISK_READ_BPS,
    )
    if device is None:
        return host
    device_byte_s, device_flop_s = _each(device.read_bps), _each(device.compute_flops)
    copy_s = _each(device.pinned_bps if is_pinned else device.pageable_bps)
    return replace(
        host,
        device_dense_byte_s=_passes(chunks) * device_byte_s,
        device_expert_byte_s=_touched(shape, chunks) * device_byte_s,
        device_parameter_s=2 * n_prompt * device_flop_s,
        device_layer_s=_passes(chunks) * LAYER_S,
        device_attention_s=attention_flops * device_flop_s,
        offloaded_parameter_s=2 * _tokens(copied) * device_flop_s,
        copied_dense_byte_s=_passes(copied) * copy_s,
        copied_expert_byte_s=_touched(shape, copied) * copy_s,
        stop_s=_passes(computed) * device.sync_s,
    )


_Chunks = list[tuple[int, int]]
"""Tokens of a micro-batch, and how many such there are."""


def _tokens(chunks: _Chunks) -> int:
    return sum(n_tokens * n for n_tokens, n in chunks)


def _passes(chunks: _Chunks) -> int:
    return sum(n for n_tokens, n in chunks if n_tokens)


def _touched(shape: ModelShape, chunks: _Chunks) -> float:
    """Return how often all routed experts are read: experts that no token of a micro-batch uses are not."""
    idle = 1.0 - shape.expert_share
    return sum(n * (1.0 - idle**n_tokens) for n_tokens, n in chunks)


def _each(per_second: float) -> float:
    """Return the seconds for one; a speed that could not be measured counts as very slow."""
    return 1.0 / max(per_second, 1.0)
