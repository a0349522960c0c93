"""Models and machines made of numbers."""

from __future__ import annotations

from edgeapp.gguf_info import LayerCache
from edgeapp.placement.assumed import assumed_device
from edgeapp.placement.compute_need import ComputeNeed
from edgeapp.placement.machine import DeviceFacts, HostFacts, Machine
from edgeapp.placement.shape import LayerShape, ModelShape

GIB = 1 << 30
MIB = 1 << 20


def made_shape(
    *,
    n_layer: int = 48,
    dense_mib: int = 20,
    gate_up_mib: int = 220,
    down_mib: int = 130,
    n_expert: int = 128,
    n_ctx_train: int = 40960,
    output_mib: int = 250,
    head_dim: int = 128,
    is_recurrent: bool = False,
) -> ModelShape:
    """Qwen3-30B-A3B by its numbers, or as changed; `n_expert` 0 is a dense model."""
    layer = LayerShape(
        dense_bytes=dense_mib * MIB,
        dense_parameters=dense_mib * MIB,
        gate_up_bytes=gate_up_mib * MIB if n_expert else 0,
        down_bytes=down_mib * MIB if n_expert else 0,
        expert_parameters=2 * (gate_up_mib + down_mib) * MIB if n_expert else 0,
        cache=LayerCache(k_values=4 * head_dim, v_values=4 * head_dim),
    )
    return ModelShape(
        layers=(layer,) * n_layer,
        input_bytes=170 * MIB,
        output_bytes=output_mib * MIB,
        output_parameters=300 * MIB,
        tied_bytes=0,
        n_vocab=151936,
        n_embd=2048,
        n_ctx_train=n_ctx_train,
        n_expert=n_expert,
        n_expert_used=8 if n_expert else 0,
        n_ff_expert=768 if n_expert else 0,
        attention_width=4096,
        head_dims=(head_dim,),
        is_recurrent=is_recurrent,
        largest_expert_tensor_bytes=down_mib * MIB,
    )


def made_host(*, available_bytes: int = 28 * GIB) -> HostFacts:
    return HostFacts(
        total_ram_bytes=max(32 * GIB, available_bytes),
        available_ram_bytes=available_bytes,
        n_threads=6,
        ram_read_bps=25e9,
        compute_flops=3e11,
    )


def made_device(vram_bytes: int, *, can_offload: bool = True) -> DeviceFacts:
    return assumed_device(
        name="CUDA0",
        description="NVIDIA GeForce RTX 3060",
        total_bytes=vram_bytes,
        free_bytes=vram_bytes,
        can_offload=can_offload,
    )


def made_machine(
    vram_gib: float = 0, *, available_bytes: int = 28 * GIB, can_offload: bool = True
) -> Machine:
    device = made_device(int(vram_gib * GIB), can_offload=can_offload) if vram_gib else None
    return Machine(host=made_host(available_bytes=available_bytes), device=device, is_measured=True)


SHAPE = made_shape()
NEED = ComputeNeed.assumed(SHAPE)
