"""DeepSeek-V3 as published, in small: FP8 weights with a scale for each 128 × 128 block, cut blocks too."""

from __future__ import annotations

from typing import Any

from tests.converters.specs import deepseek_v3

CONFIG: dict[str, Any] = {
    **deepseek_v3.CONFIG,
    "quantization_config": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
    },
}


def tensors() -> list[tuple[str, tuple[int, ...], str]]:
    whole: list[tuple[str, tuple[int, ...], str]] = []
    for name, shape, dtype in deepseek_v3.tensors():
        if not name.endswith("_proj.weight") and "kv_a_proj" not in name:
            whole.append((name, shape, dtype))
            continue
        rows, columns = shape
        whole.append((name, shape, "F8_E4M3"))
        whole.append((f"{name}_scale_inv", (-(-rows // 128), -(-columns // 128)), "F32"))
    return whole
