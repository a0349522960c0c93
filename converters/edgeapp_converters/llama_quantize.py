"""The types that llama.cpp's own llama-quantize chooses, for the file types we offer. Pure.

A port of src/llama-quant.cpp (llama_tensor_get_type_impl, tensor_allows_quantization,
tensor_type_fallback) at the pinned version; a test compares it with the library. Counters run in the order
of layers and names, as the library's loader sorts them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from edgeapp_converters.plan import TypedTensor

if TYPE_CHECKING:
    from edgeapp_converters.plan import ModelPlan, TensorPlan

Q = GGMLQuantizationType
F = LlamaFileType

_DEFAULT = {
    F.ALL_F32: Q.F32,
    F.MOSTLY_F16: Q.F16,
    F.MOSTLY_BF16: Q.BF16,
    F.MOSTLY_Q8_0: Q.Q8_0,
    F.MOSTLY_Q4_K_M: Q.Q4_K,
    F.MOSTLY_IQ4_XS: Q.IQ4_XS,
}
KNOWN = tuple(_DEFAULT)
"""File types whose rule is ported."""
_FALLBACK = {
    Q.IQ4_XS: Q.IQ4_NL,
    Q.Q2_K: Q.Q4_0,
    Q.Q3_K: Q.Q4_0,
    Q.Q4_K: Q.Q5_0,
    Q.Q5_K: Q.Q5_1,
    Q.Q6_K: Q.Q8_0,
}
_UNQUANTISED = (Q.F32, Q.F16, Q.BF16)
_NEVER = (
    *("_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel"),
    *("per_layer_model_proj", "position_embd", "token_types.weight", "ssm_conv1d", "shortconv.conv.weight"),
    *("indexer.k_proj.weight", "indexer.q_proj.weight", "attn_rel_b.weight"),
)
"""Parts of names, for the families that are converted; those of RWKV, vision and audio are left out."""
_LAYER = re.compile(r"^blk\.(\d+)\.")
_MANY_QUERIES_PER_KEY = 4
_EIGHT_EXPERTS = 8
_LAYERS_OF_70B = 80
_OTHERS_OF_70B = ("qwen2", "deci", "olmo")
"""Architectures whose models of 80 layers llama.cpp calls 70B, beside LLaMA's with grouped queries."""


def choose_types(plan: ModelPlan, file_type: LlamaFileType, *, has_imatrix: bool) -> tuple[TypedTensor, ...]:
    """Return every tensor of `plan`, in its order, with the type llama-quantize would give it."""
    rule = _Rule(plan, file_type, has_imatrix=has_imatrix)
    wanted = {tensor.name: rule.wanted(tensor) for tensor in sorted(plan.tensors, key=_loading_order)}
    return tuple(typed(tensor, wanted[tensor.name]) for tensor in plan.tensors)


def typed(tensor: TensorPlan, wanted: GGMLQuantizationType) -> TypedTensor:
    """Give `tensor` the type `wanted`, or the one that it must have, or the nearest that fits its rows."""
    if tensor.fixed_type is not None:
        return TypedTensor(plan=tensor, type=tensor.fixed_type, wanted=tensor.fixed_type)
    if not allows_quantisation(tensor):
        return TypedTensor(plan=tensor, type=Q.F32, wanted=Q.F32)
    return TypedTensor(plan=tensor, type=fitting(wanted, tensor.columns), wanted=wanted)


def allows_quantisation(tensor: TensorPlan) -> bool:
    """Whether llama-quantize quantises it at all: matrices and stacks of them, by name."""
    return (
        tensor.n_rows > 1
        and tensor.name.endswith("weight")
        and not any(part in tensor.name for part in _NEVER)
    )


def fitting(wanted: GGMLQuantizationType, columns: int) -> GGMLQuantizationType:
    """Return `wanted`, or what llama-quantize takes instead for rows that are no multiple of its block."""
    if columns % GGML_QUANT_SIZES[wanted][0] == 0:
        return wanted
    smaller = _FALLBACK.get(wanted, wanted)
    return smaller if columns % GGML_QUANT_SIZES[smaller][0] == 0 else Q.F16


class _Rule:
    """The choice of one run, with the counters that it needs."""

    def __init__(self, plan: ModelPlan, file_type: LlamaFileType, *, has_imatrix: bool) -> None:
        self._file_type = file_type
        self._has_imatrix = has_imatrix
        self._default = _DEFAULT[file_type]
        self._n_expert = plan.n_expert
        self._n_layer = _integer(plan, "block_count") or plan.n_layer
        self._n_gqa = _queries_per_key(plan)
        self._is_tied = not any(tensor.name == "output.weight" for tensor in plan.tensors)
        self._is_70b = self._n_layer == _LAYERS_OF_70B and (
            plan.architecture in _OTHERS_OF_70B or (plan.architecture == "llama" and self._n_gqa > 1)
        )
        self._n_values = sum(_is_value(tensor.name) for tensor in plan.tensors)
        self._i_value = 0
        self._i_down = 0

    def wanted(self, tensor: TensorPlan) -> GGMLQuantizationType:
        """Call once for every tensor, in loading order."""
        name = tensor.name
        if self._default in _UNQUANTISED or not allows_quantisation(tensor):
            return self._default
        if name == "output.weight" or (self._is_tied and _is_embedding(name)):
            return self._output(tensor)
        if _is_embedding(name):
            return self._default
        if _is_value(name):
            return self._value()
        if "ffn_down" in name:
            return self._down(name)
        return self._with_eight_experts(name) if self._n_expert == _EIGHT_EXPERTS else self._default

    def _with_eight_experts(self, name: str) -> GGMLQuantizationType:
        """Attention is so small a part of Mixtral that it gets more bits."""
        if "attn_k.weight" in name:
            return Q.Q8_0
        if "attn_output.weight" in name and self._default != Q.Q8_0:
            return Q.Q5_K
        return self._default

    def _output(self, tensor: TensorPlan) -> GGMLQuantizationType:
        if tensor.columns % GGML_QUANT_SIZES[self._default][0] or self._default == Q.Q8_0:
            return Q.Q8_0
        return Q.Q6_K

    def _value(self) -> GGMLQuantizationType:
        wanted = self._default
        if self._file_type == F.MOSTLY_IQ4_XS and self._n_gqa >= _MANY_QUERIES_PER_KEY:
            wanted = Q.Q5_K
        elif self._file_type == F.MOSTLY_Q4_K_M and _gets_more_bits(self._i_value, self._n_values):
            wanted = Q.Q6_K
        if self._is_70b and wanted == Q.Q4_K:
            wanted = Q.Q5_K
        if self._n_expert == _EIGHT_EXPERTS:
            wanted = Q.Q8_0
        self._i_value += 1
        return wanted

    def _down(self, name: str) -> GGMLQuantizationType:
        layer = self._i_down
        self._i_down += 1
        if self._n_expert > 1 and (named := layer_of(name)) is not None:
            layer = named
        if self._file_type == F.MOSTLY_Q4_K_M and _gets_more_bits(layer, self._n_layer):
            return Q.Q6_K
        if self._file_type == F.MOSTLY_IQ4_XS and layer < self._n_layer // 8 and not self._has_imatrix:
            return Q.Q5_K
        return self._default


def _gets_more_bits(layer: int, n_layer: int) -> bool:
    return layer < n_layer // 8 or layer >= 7 * n_layer // 8 or (layer - n_layer // 8) % 3 == 2  # noqa: PLR2004 - use_more_bits


def layer_of(name: str) -> int | None:
    """Return the layer that a tensor belongs to; None for those at the ends of the network."""
    found = _LAYER.match(name)
    return int(found[1]) if found else None


def _loading_order(tensor: TensorPlan) -> tuple[int, str]:
    layer = layer_of(tensor.name)
    return (-1 if layer is None else layer, tensor.name)


def _is_embedding(name: str) -> bool:
    return name in ("token_embd.weight", "per_layer_token_embd.weight")


def _is_value(name: str) -> bool:
    """Tensors that count as attention values: fused and latent ones too."""
    return any(part in name for part in ("attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight"))


def _queries_per_key(plan: ModelPlan) -> int:
    n_head, n_head_kv = _integer(plan, "attention.head_count"), _integer(plan, "attention.head_count_kv")
    return n_head // n_head_kv if n_head_kv else 0


def _integer(plan: ModelPlan, key: str) -> int:
    """A key of the architecture; of one that differs by layer the first layer's."""
    value = plan.metadata.get(f"{plan.architecture}.{key}")
    if value is None:
        return 0
    first = value.value[0] if isinstance(value.value, tuple) else value.value
    return int(first)
