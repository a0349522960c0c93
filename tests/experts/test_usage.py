"""The JSON contract and the sums of parts."""

from __future__ import annotations

import json

import pytest

from edgeapp.errors import UsageError
from edgeapp.experts import TextUsage, UsageProfile
from edgeapp.experts.usage import added, from_json, to_json
from edgeapp.protocol import LayerUsage

PROFILE = UsageProfile(
    model="tiny.gguf",
    n_expert=3,
    n_expert_used=1,
    texts=(TextUsage(name="code", n_tokens=6, layers=(LayerUsage(layer=1, counts=(1, 2, 3)),)),),
)


def test_the_json_is_the_promised_contract() -> None:
    assert json.loads(to_json(PROFILE)) == {
        "model": "tiny.gguf",
        "n_expert": 3,
        "n_expert_used": 1,
        "texts": [{"name": "code", "n_tokens": 6, "layers": [{"layer": 1, "counts": [1, 2, 3]}]}],
    }


def test_a_profile_comes_back_from_its_json() -> None:
    assert from_json(to_json(PROFILE)) == PROFILE


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"n_expert":3', b'"n_expert":4'), (b"[1,2,3]", b"[1,2,-3]"), (b"[1,2,3]", b'"x"'), (b"}", b"")],
)
def test_anything_else_is_refused_with_a_sentence(old: bytes, new: bytes) -> None:
    with pytest.raises(UsageError, match="no expert histogram"):
        from_json(to_json(PROFILE).replace(old, new))


def test_parts_are_added_layer_by_layer() -> None:
    one, two = LayerUsage(layer=0, counts=(1, 2)), LayerUsage(layer=1, counts=(3, 4))
    more = LayerUsage(layer=1, counts=(10, 20))
    assert added([(one, two), (more,)]) == (one, LayerUsage(layer=1, counts=(13, 24)))
    assert added([]) == ()
