"""Everything about a placement but the division of the model: what a division then costs and needs. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

from edgeapp.placement.budget import pinned_budget_bytes
from edgeapp.placement.cache_bytes import layer_cache_bytes, layer_read_bytes
from edgeapp.placement.speed import CacheRead, Parts, Prices, decode_prices, parts, prefill_prices

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.placement.problem import LoadMode, Problem
    from edgeapp.placement.split import Split
    from edgeapp.placement.wishes import KvType

_HANDED_OVER = 2
"""Rows of activations on the GPU for each token when whole layers are on the CPU (probed: 1 to 2)."""
_F32_BYTES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """Bytes that a placement takes."""

    device_weights: int
    device_kv: int
    device_compute: int
    host_weights: int
    host_kv: int
    host_compute: int
    is_private: bool
    """The host's weights are copies, not mapped pages of the file."""

    @property
    def device_bytes(self) -> int:
        return self.device_weights + self.device_kv + self.device_compute

    @property
    def private_host_bytes(self) -> int:
        """What the kernel cannot take back."""
        return self.host_kv + self.host_compute + self.host_weights * self.is_private


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Everything but the division: what it costs and needs is worked out once for all divisions."""

    problem: Problem
    n_ubatch: int
    kv_type: KvType
    load_mode: LoadMode
    kv_until: Sequence[int]
    """KV bytes of the layers before each number."""
    read_until: Sequence[int]
    """Bytes of it that one token reads."""
    decode: Prices
    prefill: Prices
    host_prefill: Prices
    """Without a GPU."""
    request: Prices
    host_request: Prices
    device_compute: tuple[int, int]
    """Without and with weights in host memory."""
    host_compute: tuple[int, int]

    def need(self, split: Split) -> Need:
        shape, is_private = self.problem.shape, self.load_mode == "none"
        all_kv = self.kv_until[-1]
        host_kv = self.kv_until[split.cpu_layers] if split.uses_device else all_kv
        # One copy of a tied embedding is enough where the file is mapped.
        saved = shape.tied_bytes if not (split.uses_device or is_private) else 0
        return Need(
            device_weights=(split.device.weight_bytes + shape.beside_bytes) * split.uses_device,
            device_kv=all_kv - host_kv,
            device_compute=self._device_compute(split),
            host_weights=shape.input_bytes + split.host.weight_bytes - saved,
            host_kv=host_kv,
            host_compute=self._host_compute(split),
            is_private=is_private,
        )

    def _device_compute(self, split: Split) -> int:
        """Only the two extremes are probed; what lies between needs what either does, and it is so in probes.

        Whole layers in host memory add the activations that are handed over, and the copy of a layer's
        weights where a prefill computes them on the GPU all the same.
        """
        if not split.uses_device:
            return 0
        without, with_experts = self.device_compute
        if not split.host.weight_bytes:
            return without
        if not split.device.expert_bytes and not split.cpu_layers and split.host.expert_bytes:
            return with_experts
        beside = 0
        if split.cpu_layers:
            beside = _HANDED_OVER * _F32_BYTES * self.problem.shape.n_embd * self.n_ubatch
            if self.problem.device is not None and self.problem.device.can_offload:
                beside += max(layer.dense_bytes for layer in self.problem.shape.layers)
        return max(without, with_experts) + beside

    def _host_compute(self, split: Split) -> int:
        """The CPU computes what it holds: at most the whole graph."""
        if not split.uses_device:
            return self.device_compute[False] + self.host_compute[False]
        if split.cpu_layers:
            return max(self.device_compute) + max(self.host_compute)
        return max(self.host_compute) if split.host.weight_bytes else self.host_compute[False]

    def fits(self, split: Split, need: Need) -> bool:
        problem = self.problem
        if need.device_bytes > problem.vram_budget_bytes and split.uses_device:
            return False
        if need.private_host_bytes + (problem.wishes.cache_ram_bytes or 0) > problem.ram_budget_bytes:
            return False
        is_pinned = need.is_private and split.uses_device
        return not is_pinned or need.host_weights <= pinned_budget_bytes(problem.machine.host)

    def paged_bytes(self, need: Need) -> int:
        """Return how much of the mapped weights has no room in memory and is read from the file again."""
        if need.is_private:
            return 0
        room = self.problem.ram_budget_bytes - (self.problem.wishes.cache_ram_bytes or 0)
        return min(max(need.host_weights + need.private_host_bytes - room, 0), need.host_weights)

    def cost(self, prices: Prices, split: Split, need: Need) -> Parts:
        host_read = self.read_until[split.cpu_layers] if split.uses_device else self.read_until[-1]
        cache = CacheRead(device_bytes=self.read_until[-1] - host_read, host_bytes=host_read)
        paged_share = self.paged_bytes(need) / max(need.host_weights, 1)
        n_device_layers = (len(self.problem.shape.layers) - split.cpu_layers) * split.uses_device
        return parts(prices, split, cache, n_device_layers=n_device_layers, paged_share=paged_share)

    def request_parts(self, split: Split, need: Need) -> Parts:
        return self.cost(self.request if split.uses_device else self.host_request, split, need)

    def is_hopeless(self, split: Split) -> bool:
        """Tell quickly that the weights alone are too much."""
        return split.device.weight_bytes > self.problem.vram_budget_bytes

    @cached_property
    def device_is_faster(self) -> bool:
        """Whether nothing is cheaper on the host, the costs of changing sides left aside."""
        prices = self.request
        return all(
            on_device <= on_host
            for on_device, on_host in (
                (prices.device_dense_byte_s, prices.host_dense_byte_s + prices.copied_dense_byte_s),
                (prices.device_expert_byte_s, prices.host_expert_byte_s + prices.copied_expert_byte_s),
                (prices.device_parameter_s, prices.host_parameter_s + prices.offloaded_parameter_s),
                (prices.device_attention_s, prices.host_attention_s),
                (prices.device_cache_byte_s, prices.host_cache_byte_s),
            )
        )


def n_prompt(problem: Problem) -> int:
    """Return the workload's prompt, as much of it as the context holds."""
    return min(problem.wishes.workload.n_prompt, problem.n_ctx)


def make_setting(problem: Problem, *, n_ubatch: int, kv_type: KvType, load_mode: LoadMode) -> Setting:
    shape, wishes = problem.shape, problem.wishes
    n_answer = wishes.workload.n_answer
    kv = layer_cache_bytes(
        shape,
        n_ctx=problem.n_ctx,
        n_ubatch=n_ubatch,
        kv_type=kv_type,
        n_parallel=wishes.n_parallel,
    )
    n_text = min(n_prompt(problem) + n_answer // 2, problem.n_ctx)
    read = layer_read_bytes(shape, n_text=n_text, kv_type=kv_type)
    decode = decode_prices(shape, problem.machine)
    prefill, host_prefill = (
        prefill_prices_of(
            problem, n_prompt(problem), n_ubatch=n_ubatch, load_mode=load_mode, uses_device=uses_device
        )
        for uses_device in (True, False)
    )
    return Setting(
        problem=problem,
        n_ubatch=n_ubatch,
        kv_type=kv_type,
        load_mode=load_mode,
        kv_until=list(accumulate(kv, initial=0)),
        read_until=list(accumulate(read, initial=0)),
        decode=decode,
        prefill=prefill,
        host_prefill=host_prefill,
        request=prefill.plus(decode, times=n_answer),
        host_request=host_prefill.plus(decode, times=n_answer),
        device_compute=_compute(problem, n_ubatch, of_device=True),
        host_compute=_compute(problem, n_ubatch, of_device=False),
    )


def prefill_prices_of(
    problem: Problem, n_tokens: int, *, n_ubatch: int, load_mode: LoadMode, uses_device: bool
) -> Prices:
    return prefill_prices(
        problem.shape,
        problem.machine,
        n_prompt=n_tokens,
        n_ubatch=n_ubatch,
        is_pinned=load_mode == "none",
        uses_device=uses_device,
    )


def _compute(problem: Problem, n_ubatch: int, *, of_device: bool) -> tuple[int, int]:
    bytes_of = problem.compute.device_bytes if of_device else problem.compute.host_bytes
    without, with_experts = (
        bytes_of(n_ctx=problem.n_ctx, n_ubatch=n_ubatch, experts_on_cpu=on_cpu) for on_cpu in (False, True)
    )
    return without, with_experts
