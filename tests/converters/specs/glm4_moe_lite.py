"""GLM-4.7-Flash in small: DeepSeek-V3's tensors without expert groups, the prediction layer kept."""

from __future__ import annotations

from typing import Any

from tests.converters.specs import deepseek_v3

CONFIG: dict[str, Any] = {
    **{key: value for key, value in deepseek_v3.CONFIG.items() if key not in {"topk_method", "rope_scaling"}},
    "architectures": ["Glm4MoeLiteForCausalLM"],
    "model_type": "glm4_moe_lite",
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 1.8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000,
    "rope_interleave": True,
}

tensors = deepseek_v3.tensors
