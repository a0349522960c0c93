"""Whatever a config.json says, it becomes a plan or one clear error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from edgeapp.errors import EdgeappError
from edgeapp_converters.arch import plan_model
from edgeapp_converters.source import SourceTensor
from tests.converters.checkpoints import names, spec

if TYPE_CHECKING:
    from collections.abc import Iterator

_ABSENT = object()
_WRONG: list[Any] = [_ABSENT, 0, -1, 1 << 24, 1 << 40, 1.5, float("inf"), True, "x", ["x"], [0, 0], {"x": 1}]
_SAME_FAMILY = {
    "deepseek_v2",
    "deepseek_v3_fp8",
    "glm4_moe_lite",
    "gpt_oss_bf16",
    "mistral",
    "qwen3_moe_fused",
}
"""Specs of families that another spec stands for."""


@pytest.mark.parametrize("name", [name for name in names() if name not in _SAME_FAMILY])
def test_any_wrong_value_is_a_plan_or_a_clear_error(name: str) -> None:
    chosen = spec(name)
    tensors = {
        tensor: SourceTensor(name=tensor, dtype=dtype, shape=shape, shard="a", offset_bytes=0, n_bytes=0)
        for tensor, shape, dtype in chosen.tensors()
    }
    for path in _paths(chosen.CONFIG):
        for wrong in _WRONG:
            try:
                plan_model(_changed(chosen.CONFIG, path, wrong), tensors)
            except EdgeappError:
                continue
            except Exception as error:
                raise AssertionError(f"{path} = {wrong!r}") from error


def _paths(config: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """The keys of a configuration and of the objects in it."""
    for key, value in config.items():
        yield (key,)
        if isinstance(value, dict):
            yield from ((key, *path) for path in _paths(value))


def _changed(config: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A copy with the value at `path` replaced or taken away."""
    key, *rest = path
    if rest:
        return config | {key: _changed(config[key], tuple(rest), value)}
    return {k: v for k, v in config.items() if k != key} | ({} if value is _ABSENT else {key: value})
