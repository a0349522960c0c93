from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings

from edgeapp.placement.overrides import tensor_overrides
from edgeapp.placement.shape import ModelShape  # noqa: TC001 - hypothesis reads the annotations
from edgeapp.placement.split import host_only, splits
from tests.placement.made import MIB, SHAPE
from tests.placement.test_plan import SHAPES


@settings(max_examples=40, deadline=None)
@given(shape=SHAPES)
def test_every_step_moves_weights_off_the_gpu_and_loses_none(shape: ModelShape) -> None:
    ways = [*splits(shape, None), host_only(shape)]
    whole = shape.weight_bytes - shape.input_bytes
    assert {way.device.weight_bytes + way.host.weight_bytes for way in ways} == {whole}
    on_device = [way.device.weight_bytes for way in ways]
    assert on_device == sorted(on_device, reverse=True)
    assert (on_device[0], on_device[-1]) == (whole, 0)
    parameters = ways[0].device.parameters
    assert all(
        abs(way.device.parameters + way.host.parameters - parameters) < 1e-6 * parameters for way in ways
    )


def test_a_layer_leaves_by_its_smaller_experts_its_larger_ones_then_both() -> None:
    ways = list(splits(SHAPE, None))
    assert [way.partial for way in ways[:4]] == [None, (47, "down"), (47, "gate_up"), None]
    assert [way.host.weight_bytes // MIB for way in ways[:5]] == [0, 130, 220, 350, 480]
    assert [way.n_stops for way in ways[:5]] == [0, 1, 1, 1, 2]


def test_an_expert_layer_that_leaves_whole_is_no_stop_any_more() -> None:
    ways = [way for way in splits(SHAPE, None) if way.cpu_layers]
    assert [way.cpu_layers for way in ways] == list(range(1, 49))
    assert [way.n_stops for way in ways] == [*range(48, 1, -1), 1]
    assert ways[-1].device.weight_bytes == SHAPE.output_bytes


def test_pinned_experts_are_the_only_ones_that_leave() -> None:
    (only,) = splits(SHAPE, frozenset({3, 40}))
    assert (only.cpu_expert_layers, only.host.weight_bytes) == ((3, 40), 700 * MIB)
    assert len(list(splits(SHAPE, frozenset(range(48))))) == 49
    assert [way.cpu_layers for way in splits(SHAPE, frozenset({0, 1, 9}))] == [0, 1, 2]


def test_layers_without_experts_leave_none_behind() -> None:
    dense = replace(SHAPE.layers[0], gate_up_bytes=0, down_bytes=0)
    shape = replace(SHAPE, layers=(dense, *SHAPE.layers[:3], dense))
    assert shape.expert_layers == (1, 2, 3)
    firsts = [way.cpu_expert_layers for way in splits(shape, None) if not way.partial][:4]
    assert firsts == [(), (3,), (2, 3), (1, 2, 3)]


def test_patterns_name_layers_unless_all_leave() -> None:
    whole, partial = (
        next(
            way
            for way in splits(SHAPE, None)
            if way.cpu_expert_layers == (46, 47) and bool(way.partial) is part
        )
        for part in (False, True)
    )
    (both,) = tensor_overrides(whole, SHAPE.expert_layers)
    assert both.pattern == r"blk\.(46|47)\.ffn_(up|down|gate|gate_up)_(ch|)exps"
    last, part = tensor_overrides(partial, SHAPE.expert_layers)
    assert last.pattern.startswith(r"blk\.(47)\.ffn_(up|")
    assert re.search(part.pattern, "blk.46.ffn_down_exps.weight")
    assert not re.search(part.pattern, "blk.46.ffn_up_exps.weight")
    everything = next(way for way in splits(SHAPE, None) if way.cpu_layers == 5)
    (all_of_them,) = tensor_overrides(everything, SHAPE.expert_layers)
    assert all_of_them.pattern == r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"
    assert tensor_overrides(host_only(SHAPE), SHAPE.expert_layers) == ()


def test_steps_are_neighbours() -> None:
    ways = list(splits(SHAPE, None))
    moved = [a.device.weight_bytes - b.device.weight_bytes for a, b in pairwise(ways)]
    assert max(moved) <= 220 * MIB
