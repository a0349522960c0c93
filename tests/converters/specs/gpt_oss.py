"""GPT-OSS in small: experts as MXFP4 blocks and scales, which are moved and never quantised again."""

from __future__ import annotations

from typing import Any

from tests.converters.specs import gpt_oss_bf16

CONFIG: dict[str, Any] = {
    **gpt_oss_bf16.CONFIG,
    "quantization_config": {
        "quant_method": "mxfp4",
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ],
    },
}


def tensors() -> list[tuple[str, tuple[int, ...], str]]:
    return gpt_oss_bf16.whole_model(
        [
            ("mlp.experts.gate_up_proj_blocks", (4, 128, 4, 16), "U8"),
            ("mlp.experts.gate_up_proj_scales", (4, 128, 4), "U8"),
            ("mlp.experts.down_proj_blocks", (4, 128, 2, 16), "U8"),
            ("mlp.experts.down_proj_scales", (4, 128, 2), "U8"),
        ]
    )
