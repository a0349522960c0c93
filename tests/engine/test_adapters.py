"""LoRA adapters: what they change, how they are swapped, and which files never reach llama.cpp."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgeapp.engine.adapter_file import check_adapter
from edgeapp.engine.adapters import Adapters
from edgeapp.errors import EdgeappError, InvalidModel, ModelNotFound, UnsupportedModel, UsageError
from edgeapp.gguf_info.parts import read_parts
from edgeapp.protocol import AdapterUse
from tests.engine.raw_model import RawModel, raw_model
from tests.gguf_mutations import lies, mutations
from tests.tiny_lora import (
    ATTENTION,
    EXPERTS,
    adapter_writer,
    add_pair,
    write_merged,
    write_tiny_lora,
)
from tests.tiny_moe import close

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gguf import GGUFWriter
    from numpy.typing import NDArray

TOKENS = [int(token) for token in np.random.default_rng(5).integers(20, 1000, 40)]
QUERY = "blk.0.attn_q.weight"  # [64, 64]
UP = "blk.0.ffn_up_exps.weight"  # [4 experts, 96, 64]


@contextmanager
def adapted(model: Path) -> Iterator[tuple[RawModel, Adapters]]:
    with raw_model(model) as raw:
        adapters = Adapters(raw.handle, raw.path)
        try:
            yield raw, adapters
        finally:
            adapters.free()


def with_adapters(raw: RawModel, adapters: Adapters, *uses: tuple[str, float]) -> NDArray[np.float32]:
    adapters.apply(raw.context, [AdapterUse(name=name, scale=scale) for name, scale in uses])
    return raw.logits(TOKENS)


def merged_logits(model: Path, path: Path, *adapters: tuple[Path, float]) -> NDArray[np.float32]:
    with raw_model(write_merged(path, model, adapters)) as raw:
        return raw.logits(TOKENS)


@pytest.fixture
def lora(tiny_moe: Path, tmp_path: Path) -> Path:
    return write_tiny_lora(tmp_path / "lora.gguf", tiny_moe)


# What an adapter does ------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [ATTENTION, EXPERTS, ("blk.1.ffn_gate_inp.weight",)])
@pytest.mark.parametrize("scale", [1.0, -0.5])
def test_an_adapter_gives_the_logits_of_the_merged_model(
    tiny_moe: Path, tmp_path: Path, names: tuple[str, ...], scale: float
) -> None:
    lora = write_tiny_lora(tmp_path / "lora.gguf", tiny_moe, names=names)
    expected = merged_logits(tiny_moe, tmp_path / "merged.gguf", (lora, scale))
    with adapted(tiny_moe) as (raw, adapters):
        plain = raw.logits(TOKENS)
        assert adapters.load("one", lora) == len(names)
        changed = with_adapters(raw, adapters, ("one", scale))
    assert np.abs(changed - plain).max() > 0.5
    np.testing.assert_allclose(changed, expected, atol=1e-4)


def test_two_adapters_add_up(tiny_moe: Path, tmp_path: Path, lora: Path) -> None:
    other = write_tiny_lora(tmp_path / "other.gguf", tiny_moe, seed=1, rank=2, alpha=3.0)
    expected = merged_logits(tiny_moe, tmp_path / "merged.gguf", (lora, 0.25), (other, 0.75))
    with adapted(tiny_moe) as (raw, adapters):
        adapters.load("one", lora)
        adapters.load("two", other)
        both = with_adapters(raw, adapters, ("one", 0.25), ("two", 0.75))
        turned = with_adapters(raw, adapters, ("two", 0.75), ("one", 0.25))
        crossed = with_adapters(raw, adapters, ("one", 0.75), ("two", 0.25))
    np.testing.assert_allclose(both, expected, atol=1e-4)
    np.testing.assert_array_equal(both, turned)
    assert np.abs(both - crossed).max() > 0.1


def test_scale_zero_and_no_adapter_are_the_same(tiny_moe: Path, lora: Path) -> None:
    with adapted(tiny_moe) as (raw, adapters):
        plain = raw.logits(TOKENS)
        adapters.load("one", lora)
        np.testing.assert_array_equal(raw.logits(TOKENS), plain)
        np.testing.assert_array_equal(with_adapters(raw, adapters, ("one", 0.0)), plain)
        with_adapters(raw, adapters, ("one", 1.0))
        np.testing.assert_array_equal(with_adapters(raw, adapters, ("one", 0.0)), plain)


def test_adapters_are_swapped_without_loading_the_model_again(
    tiny_moe: Path, tmp_path: Path, lora: Path
) -> None:
    other = write_tiny_lora(tmp_path / "other.gguf", tiny_moe, seed=1)
    with adapted(tiny_moe) as (raw, adapters):
        plain = raw.logits(TOKENS)
        adapters.load("one", lora)
        one = with_adapters(raw, adapters, ("one", 1.0))
        adapters.load("two", other)
        two = with_adapters(raw, adapters, ("two", 1.0))
        for _ in range(20):
            np.testing.assert_array_equal(with_adapters(raw, adapters, ("one", 1.0)), one)
            np.testing.assert_array_equal(with_adapters(raw, adapters, ("two", 1.0)), two)
        np.testing.assert_array_equal(with_adapters(raw, adapters), plain)
    assert np.abs(one - two).max() > 0.5


def test_an_unloaded_adapter_no_longer_works_on_the_context_it_was_applied_to(
    tiny_moe: Path, tmp_path: Path, lora: Path
) -> None:
    other = write_tiny_lora(tmp_path / "other.gguf", tiny_moe, seed=1)
    with adapted(tiny_moe) as (raw, adapters):
        plain = raw.logits(TOKENS)
        adapters.load("one", lora)
        one = with_adapters(raw, adapters, ("one", 1.0))
        adapters.unload("one")
        np.testing.assert_array_equal(raw.logits(TOKENS), plain)
        adapters.load("one", other)
        assert np.abs(with_adapters(raw, adapters, ("one", 1.0)) - one).max() > 0.5


# Names and keys ------------------------------------------------------------------------------------------


def test_a_name_is_loaded_once_and_forgotten_once(tiny_moe: Path, lora: Path) -> None:
    with adapted(tiny_moe) as (_, adapters):
        adapters.load("one", lora)
        assert adapters.names == ("one",)
        with pytest.raises(UsageError, match="an adapter one already"):
            adapters.load("one", lora)
        with pytest.raises(UsageError, match="used by an answer"):
            adapters.unload("one", in_use={"one"})
        adapters.unload("one", in_use={"two"})
        assert not adapters.names
        with pytest.raises(UsageError, match="There is no adapter one"):
            adapters.unload("one")


@pytest.mark.parametrize("name", ["", "x" * 101, "a\nb", "\x1b[2J", " a", "a\u202eb"])
def test_a_name_that_could_not_be_shown_is_refused(tiny_moe: Path, lora: Path, name: str) -> None:
    with adapted(tiny_moe) as (_, adapters), pytest.raises(UsageError, match="cannot have the name"):
        adapters.load(name, lora)


@pytest.mark.parametrize(
    ("uses", "message"),
    [
        ([("two", 1.0)], "There is no adapter two"),
        ([("one", 1.0), ("one", 0.5)], "named twice"),
        ([("one", float("nan"))], "scale of adapter one is nan"),
        ([("one", float("-inf"))], "scale of adapter one is -inf"),
        ([("one", 1e39)], "scale of adapter one is 1e"),
    ],
)
def test_a_set_that_cannot_be_applied_is_refused_and_the_last_one_stays(
    tiny_moe: Path, lora: Path, uses: list[tuple[str, float]], message: str
) -> None:
    with adapted(tiny_moe) as (raw, adapters):
        adapters.load("one", lora)
        before = with_adapters(raw, adapters, ("one", 1.0))
        wrong = [AdapterUse(name=name, scale=scale) for name, scale in uses]
        for refuse in (adapters.check, adapters.key, lambda w: adapters.apply(raw.context, w)):
            with pytest.raises(UsageError, match=message):
                refuse(wrong)
        np.testing.assert_array_equal(raw.logits(TOKENS), before)


def test_a_key_depends_on_contents_and_scales_and_not_on_names_and_order(
    tiny_moe: Path, tmp_path: Path, lora: Path
) -> None:
    other = write_tiny_lora(tmp_path / "other.gguf", tiny_moe, seed=1)
    same = write_tiny_lora(tmp_path / "same.gguf", tiny_moe)
    with adapted(tiny_moe) as (_, adapters):
        for name, path in (("one", lora), ("two", other), ("copy", same)):
            adapters.load(name, path)

        def key(*uses: tuple[str, float]) -> str:
            return adapters.key([AdapterUse(name=name, scale=scale) for name, scale in uses])

        assert key() == key(("one", 0.0)) == ""
        assert key(("one", 1.0)) == key(("copy", 1.0)) == key(("two", 0.0), ("one", 1.0))
        assert key(("one", 1.0), ("two", 0.5)) == key(("two", 0.5), ("one", 1.0))
        assert len({key(("one", 1.0)), key(("one", 0.5)), key(("two", 1.0)), key()}) == 4


# Files that are refused ----------------------------------------------------------------------------------


def zeros(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, dtype=np.float32)


def refused(writer: GGUFWriter, path: Path, base: Path) -> EdgeappError:
    close(writer, path)
    with pytest.raises(EdgeappError) as problem:
        check_adapter(path, read_parts(base))
    assert "\n" not in problem.value.message
    assert problem.value.hint
    return problem.value


def query_adapter(path: Path, **metadata: Any) -> GGUFWriter:
    writer = adapter_writer(path, **metadata)
    add_pair(writer, QUERY, zeros(4, 64), zeros(64, 4))
    return writer


@pytest.mark.parametrize(
    ("metadata", "error", "message"),
    [
        ({"kind": "model"}, UsageError, "not a LoRA adapter"),
        ({"adapter_type": "control_vector"}, UsageError, 'its type is "control_vector"'),
        ({"arch": "qwen3moe"}, UsageError, 'architecture "qwen3moe", the model has "llama"'),
        ({"alpha": None}, InvalidModel, "no adapter.lora.alpha"),
        ({"alpha": float("inf")}, InvalidModel, "alpha is inf"),
    ],
)
def test_an_adapter_of_another_kind_is_refused(
    tiny_moe: Path, tmp_path: Path, metadata: dict[str, Any], error: type[EdgeappError], message: str
) -> None:
    path = tmp_path / "wrong.gguf"
    problem = refused(query_adapter(path, **metadata), path, tiny_moe)
    assert isinstance(problem, error)
    assert message in problem.message


def test_an_activated_lora_is_refused(tiny_moe: Path, tmp_path: Path) -> None:
    path = tmp_path / "alora.gguf"
    writer = query_adapter(path)
    writer.add_array("adapter.alora.invocation_tokens", [1, 2])
    assert isinstance(refused(writer, path, tiny_moe), UnsupportedModel)


@pytest.mark.parametrize(
    ("name", "a", "b", "message"),
    [
        ("blk.7.attn_q.weight", (4, 64), (64, 4), "blk.7.attn_q.weight, which the model does not have"),
        ("output.weight", (4, 64), (1024, 4), "output.weight, which the model does not have"),
        ("blk.0.attn_norm.weight", (1, 64), (1, 1), "blk.0.attn_norm.weight, which is not a matrix"),
        ("token_embd.weight", (1024, 4), (64, 4), "the output layer shares it"),
        (QUERY, (4, 63), (64, 4), r"lora_a has the shape (63, 4)"),
        (QUERY, (4, 64), (65, 4), r"lora_b has the shape (4, 65)"),
        (QUERY, (4, 64), (64, 3), r"lora_a has the shape (64, 4)"),
        (QUERY, (2, 4, 64), (2, 64, 4), r"lora_a has the shape (64, 4, 2)"),
        (UP, (2, 4, 64), (2, 96, 4), r"(64, 96, 4) needs (64, 4, 4)"),
        (UP, (4, 64), (96, 4), r"lora_a has the shape (64, 4)"),
        (UP, (4, 4, 64), (3, 96, 4), r"lora_b has the shape (4, 96, 3)"),
    ],
)
def test_matrices_that_do_not_fit_the_model_are_refused_by_name(
    tiny_moe: Path, tmp_path: Path, name: str, a: tuple[int, ...], b: tuple[int, ...], message: str
) -> None:
    path = tmp_path / "wrong.gguf"
    writer = adapter_writer(path)
    add_pair(writer, name, zeros(*a), zeros(*b))
    problem = refused(writer, path, tiny_moe)
    assert isinstance(problem, UsageError | UnsupportedModel)
    assert message in problem.message


def test_half_a_pair_a_foreign_tensor_and_no_pair_are_refused(tiny_moe: Path, tmp_path: Path) -> None:
    for name, message in (
        (f"{QUERY}.lora_b", "lora_b without the other half"),
        (QUERY, "neither a lora_a nor a lora_b"),
        ("blk.0.attn_norm.weight", "holds no LoRA matrices"),
    ):
        path = tmp_path / f"{name}.gguf"
        writer = adapter_writer(path)
        writer.add_tensor(name, zeros(64, 4))
        problem = refused(writer, path, tiny_moe)
        assert isinstance(problem, InvalidModel)
        assert message in problem.message


def test_matrices_of_integers_are_refused(tiny_moe: Path, tmp_path: Path) -> None:
    path = tmp_path / "integers.gguf"
    writer = adapter_writer(path)
    writer.add_tensor(f"{QUERY}.lora_a", np.zeros((4, 64), dtype=np.int32))
    writer.add_tensor(f"{QUERY}.lora_b", np.zeros((64, 4), dtype=np.int32))
    assert "has the type I32" in refused(writer, path, tiny_moe).message


def test_norms_beside_the_matrices_are_left_out_as_llama_cpp_does(tiny_moe: Path, tmp_path: Path) -> None:
    path = tmp_path / "norms.gguf"
    writer = query_adapter(path)
    writer.add_tensor("blk.0.attn_norm.weight", zeros(64))
    close(writer, path)
    with adapted(tiny_moe) as (raw, adapters):
        assert adapters.load("one", path) == 1
        with_adapters(raw, adapters, ("one", 1.0))


def test_a_missing_a_cut_and_a_foreign_file_are_refused_in_one_sentence(
    tiny_moe: Path, tmp_path: Path, lora: Path
) -> None:
    cut, foreign = tmp_path / "cut.gguf", tmp_path / "foreign.gguf"
    cut.write_bytes(lora.read_bytes()[:-10])
    foreign.write_bytes(b"PK\x03\x04 not a model")
    with adapted(tiny_moe) as (_, adapters):
        with pytest.raises(InvalidModel, match="truncated"):
            adapters.load("one", cut)
        with pytest.raises(InvalidModel):
            adapters.load("one", foreign)
        with pytest.raises(ModelNotFound):
            adapters.load("one", tmp_path / "none.gguf")
        assert not adapters.names


def test_what_is_left_of_a_damaged_adapter_is_refused_or_runs(tiny_moe: Path, tmp_path: Path) -> None:
    whole = write_tiny_lora(tmp_path / "whole.gguf", tiny_moe, names=(QUERY, UP)).read_bytes()
    path, base = tmp_path / "damaged.gguf", read_parts(tiny_moe)
    accepted = []
    for damaged in (*lies(whole), *mutations(whole, 300, seed=2)):
        path.write_bytes(damaged)
        try:
            check_adapter(path, base)
        except EdgeappError:
            continue
        accepted.append(damaged)
    with adapted(tiny_moe) as (raw, adapters):
        for damaged in accepted[:40]:
            path.write_bytes(damaged)
            adapters.load("one", path)
            with_adapters(raw, adapters, ("one", 1.0))
            adapters.unload("one")
    assert len(accepted) < 120
