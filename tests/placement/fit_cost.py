"""What `--fit`'s choice would cost by our own price list, so that both are measured with one rule."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from edgeapp.placement.search import Candidate
from edgeapp.placement.setting import make_setting
from edgeapp.placement.split import Side, Split
from tests.model_shapes import SHAPES, tensor_specs
from tests.placement.recorded_fit import N_UBATCH, FitChoice

if TYPE_CHECKING:
    from edgeapp.placement.problem import Problem
    from edgeapp.placement.shape import LayerShape, ModelShape

_LAYER = re.compile(r"blk\.(\d+)\.")


def fit_candidate(name: str, choice: FitChoice, problem: Problem) -> Candidate:
    """Return `choice` for `SHAPES[name]` as a candidate of ours: micro-batches of 512, mapped weights."""
    setting = make_setting(problem, n_ubatch=N_UBATCH, kv_type="f16", load_mode="mmap")
    split = fit_split(name, choice, problem.shape)
    return Candidate(setting=setting, split=split, need=setting.need(split))


def fit_split(name: str, choice: FitChoice, shape: ModelShape) -> Split:
    """Return what lies where with `-ngl` and `-ot` of `choice`."""
    n_layer = len(shape.layers)
    n_on_gpu = n_layer + 1 if choice.n_gpu_layers < 0 else choice.n_gpu_layers
    cpu_layers = max(n_layer + 1 - n_on_gpu, 0)  # llama-model.cpp, i_gpu_start; the output counts as one
    shares = _host_shares(name, choice)
    device, host = Side(), Side()
    output = Side(dense_bytes=shape.output_bytes, parameters=shape.output_parameters)
    if n_on_gpu:
        device += output
    else:
        host += output
    for number, layer in enumerate(shape.layers):
        host_side = _part(shape, layer, _ALL if number < cpu_layers else shares[number])
        device += _part(shape, layer, _ALL) - host_side
        host += host_side
    leaving = [number for number in shape.expert_layers if number < cpu_layers or shares[number].experts]
    return Split(
        device=device,
        host=host,
        cpu_layers=min(cpu_layers, n_layer),
        cpu_expert_layers=tuple(leaving),
        uses_device=n_on_gpu > 0,
    )


class _Shares(NamedTuple):
    """The parts of a layer's bytes in host memory, 0 to 1."""

    dense: float
    experts: float


_ALL = _Shares(1.0, 1.0)


def _host_shares(name: str, choice: FitChoice) -> dict[int, _Shares]:
    """Apply the overrides to every tensor's name, the first that is found in it wins."""
    sums: dict[int, dict[tuple[bool, bool], int]] = {}
    patterns = [(re.compile(pattern), buffer) for pattern, buffer in choice.overrides]
    for spec in tensor_specs(SHAPES[name]):
        if (match := _LAYER.match(spec.name)) is None:
            continue
        buffer = next((buffer for pattern, buffer in patterns if pattern.search(spec.name)), "")
        key = ("_exps." in spec.name, buffer == "CPU")
        layer = sums.setdefault(int(match[1]), {})
        layer[key] = layer.get(key, 0) + spec.n_bytes
    return {
        number: _Shares(_share(layer, experts=False), _share(layer, experts=True))
        for number, layer in sums.items()
    }


def _share(layer: dict[tuple[bool, bool], int], *, experts: bool) -> float:
    on_host, on_device = layer.get((experts, True), 0), layer.get((experts, False), 0)
    return on_host / (on_host + on_device) if on_host else 0.0


def _part(shape: ModelShape, layer: LayerShape, share: _Shares) -> Side:
    is_whole = share.dense == 1.0
    return Side(
        dense_bytes=round(layer.dense_bytes * share.dense),
        expert_bytes=round(layer.expert_bytes * share.experts),
        parameters=layer.dense_parameters * share.dense
        + layer.expert_parameters * shape.expert_share * share.experts,
        attention_width=shape.attention_width if is_whole and layer.cache.k_values else 0,
    )
