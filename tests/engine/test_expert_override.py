"""Another number of active experts: which key of the header says it, and what is refused before a load."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgeapp.engine.expert_override import expert_override
from edgeapp.errors import UsageError
from tests.gguf_bytes import U32, GgufBytes, Value, array, model_keys, number

if TYPE_CHECKING:
    from pathlib import Path


def written(folder: Path, **keys: Value | None) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(GgufBytes(keys=list(model_keys(**keys).items())).encode())
    return path


def routed(folder: Path, **more: Value | None) -> Path:
    counts = {"llama__expert_count": number(8), "llama__expert_used_count": number(2)}
    return written(folder, **counts | more)


@pytest.mark.parametrize("n_expert_used", [1, 2, 8])
def test_the_key_has_the_architectures_name(tmp_path: Path, n_expert_used: int) -> None:
    found = expert_override(routed(tmp_path), n_expert_used)
    assert found == ("llama.expert_used_count", n_expert_used)


@pytest.mark.parametrize("n_expert_used", [-1, 0, 9])
def test_a_count_that_cannot_be_routed_is_refused_with_the_numbers(
    tmp_path: Path, n_expert_used: int
) -> None:
    with pytest.raises(UsageError, match=f"^{n_expert_used} experts .* 1 to 8") as problem:
        expert_override(routed(tmp_path), n_expert_used)
    assert "between 1 and 8" in problem.value.hint


def test_expert_groups_limit_the_count(tmp_path: Path) -> None:
    groups = {"llama__expert_group_count": number(4), "llama__expert_group_used_count": number(2)}
    path = routed(tmp_path, **groups)
    assert expert_override(path, 4)[1] == 4
    with pytest.raises(UsageError, match="1 to 4"):
        expert_override(path, 5)


def test_a_dense_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="dense"):
        expert_override(written(tmp_path), 1)


def test_a_model_whose_layers_differ_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Each layer"):
        expert_override(routed(tmp_path, llama__expert_used_count=array(U32, [2, 2])), 1)
