from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgeapp.engine import bindings
from edgeapp.engine.bindings import MemoryKind
from edgeapp.errors import EngineError
from tests.engine.sequences import Sequences, some_tokens, two_sequences
from tests.tiny_hybrid import write_tiny_hybrid
from tests.tiny_mamba import write_tiny_mamba
from tests.tiny_moe import write_tiny_moe
from tests.tiny_swa import N_WINDOW, write_tiny_swa

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_WRITERS = {
    "attention": write_tiny_moe,
    "window": write_tiny_swa,
    "recurrent": write_tiny_mamba,
    "hybrid": write_tiny_hybrid,
}
_PROMPT = some_tokens(60)


@pytest.fixture(scope="module", params=_WRITERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def any_model(folder: Path, kind: str) -> Iterator[Sequences]:
    with two_sequences(_WRITERS[kind](folder / f"{kind}.gguf")) as sequences:
        yield sequences


@pytest.fixture(scope="module")
def window(folder: Path) -> Iterator[Sequences]:
    with two_sequences(write_tiny_swa(folder / "a-window.gguf")) as sequences:
        yield sequences


@pytest.fixture(scope="module")
def hybrid(folder: Path) -> Iterator[Sequences]:
    with two_sequences(write_tiny_hybrid(folder / "a-hybrid.gguf")) as sequences:
        yield sequences


def prefill(model: Sequences, tokens: list[int], *, sequence: int = 0) -> None:
    bindings.kv_clear(model.context)
    model.decode(tokens, n_past=0, sequence=sequence)


# Save and restore ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [0, 1])
def test_a_restored_sequence_goes_on_like_an_uninterrupted_one(any_model: Sequences, target: int) -> None:
    cold = any_model.cold(_PROMPT, count=16)
    prefill(any_model, _PROMPT[:-1])
    state = bindings.save_sequence(any_model.context, 0)
    bindings.kv_clear(any_model.context)
    assert bindings.load_sequence(any_model.context, target, bytes(state))
    assert any_model.length(target) == len(_PROMPT) - 1
    assert any_model.greedy(_PROMPT[-1:], n_past=59, count=16, sequence=target) == cold


def test_loading_replaces_what_the_sequence_held_and_leaves_the_other_alone(any_model: Sequences) -> None:
    other = some_tokens(30, seed=1)
    cold_other = any_model.cold(other, count=8)
    cold = any_model.cold(_PROMPT, count=8)
    prefill(any_model, _PROMPT[:-1])
    state = bindings.save_sequence(any_model.context, 0)
    any_model.decode(some_tokens(40, seed=2), n_past=59)
    any_model.decode(other[:-1], n_past=0, sequence=1)
    assert bindings.load_sequence(any_model.context, 0, state)
    assert any_model.greedy(_PROMPT[-1:], n_past=59, count=8) == cold
    assert any_model.greedy(other[-1:], n_past=29, count=8, sequence=1) == cold_other


def test_an_empty_sequence_is_saved_and_restored_as_empty(any_model: Sequences, kind: str) -> None:
    bindings.kv_clear(any_model.context)
    state = bindings.save_sequence(any_model.context, 0)
    assert bindings.load_sequence(any_model.context, 1, state)
    assert any_model.length(1) == 0


# What llama.cpp refuses ----------------------------------------------------------------------------------


def test_a_state_cut_anywhere_or_too_long_is_refused_and_leaves_the_sequence_empty(
    any_model: Sequences,
) -> None:
    prefill(any_model, _PROMPT)
    state = bindings.save_sequence(any_model.context, 0)
    steps = sorted({*range(64), *range(64, len(state), len(state) // 40), len(state) - 1})
    for damaged in (*(state[:length] for length in steps), state + b"\0"):
        any_model.decode([5], n_past=0, sequence=1)
        assert not bindings.load_sequence(any_model.context, 1, damaged)
        assert any_model.length(1) == 0
    assert any_model.length(0) == len(_PROMPT)


def test_a_state_of_another_kind_of_model_is_refused(any_model: Sequences, folder: Path, kind: str) -> None:
    prefill(any_model, _PROMPT)
    state = bindings.save_sequence(any_model.context, 0)
    for name, write in _WRITERS.items():
        if name != kind:
            with two_sequences(write(folder / f"other-{name}.gguf")) as other:
                assert not bindings.load_sequence(other.context, 0, state)


def test_a_state_larger_than_the_room_left_is_refused(window: Sequences) -> None:
    prefill(window, some_tokens(300))
    bindings.kv_truncate(window.context, 0, 290)
    state = bindings.save_sequence(window.context, 0)
    bindings.kv_clear(window.context)
    window.decode(some_tokens(300, seed=1), n_past=0, sequence=1)
    assert not bindings.load_sequence(window.context, 0, state)
    assert window.length(0) == 0
    assert window.length(1) == 300


@pytest.mark.parametrize("sequence", [-1, 2, 10_000])
def test_only_the_context_s_own_sequences_are_saved_and_loaded(hybrid: Sequences, sequence: int) -> None:
    prefill(hybrid, _PROMPT)
    state = bindings.save_sequence(hybrid.context, 0)
    with pytest.raises(EngineError, match="not one of the context's 2"):
        bindings.save_sequence(hybrid.context, sequence)
    with pytest.raises(EngineError, match="not one of the context's 2"):
        bindings.load_sequence(hybrid.context, sequence, state)
    assert hybrid.length(0) == len(_PROMPT)


def test_a_forged_cell_count_ends_the_process_which_is_why_files_are_verified_first(folder: Path) -> None:
    script = """
        import struct, sys
        from pathlib import Path
        from edgeapp.engine import bindings
        from tests.engine.sequences import some_tokens, two_sequences
        with two_sequences(Path(sys.argv[1])) as model:
            model.decode(some_tokens(30), n_past=0)
            state = bytes(bindings.save_sequence(model.context, 0))
            count, cell = struct.pack("<I", 2), struct.pack("<iI", 30, 0)
            forged = state[:8] + count + state[12:20] + cell + state[20:]
            bindings.load_sequence(model.context, 0, forged)
    """
    path = write_tiny_mamba(folder / "forged.gguf")
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(path)],
        env={"GGML_NO_BACKTRACE": "1", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        check=False,
    )
    assert b"GGML_ASSERT" in ended.stderr
    assert ended.returncode == -6


# What can be cut -----------------------------------------------------------------------------------------


def test_recurrent_layers_refuse_to_forget_a_part(any_model: Sequences, kind: str) -> None:
    prefill(any_model, _PROMPT)
    is_recurrent = kind in ("recurrent", "hybrid")
    assert any_model.kind.is_recurrent == is_recurrent
    assert bindings.kv_truncate(any_model.context, 0, 30) == (not is_recurrent)
    assert any_model.length() == (len(_PROMPT) if is_recurrent else 30)


def test_a_checkpoint_takes_a_text_back_to_where_it_was_made(any_model: Sequences, kind: str) -> None:
    other = _PROMPT[:41] + some_tokens(10, seed=3)
    cold = any_model.cold(other, count=16)
    prefill(any_model, _PROMPT[:40])
    point = bindings.save_sequence(any_model.context, 0, partial=True)
    any_model.decode(_PROMPT[40:], n_past=40)
    if kind != "attention":
        assert bindings.load_sequence(any_model.context, 0, point, partial=True)
    assert bindings.kv_truncate(any_model.context, 0, 40)
    assert any_model.greedy(other[40:], n_past=40, count=16) == cold


def test_a_checkpoint_of_a_hybrid_model_leaves_its_attention_out(hybrid: Sequences) -> None:
    prefill(hybrid, _PROMPT)
    whole = bindings.save_sequence(hybrid.context, 0)
    point = bindings.save_sequence(hybrid.context, 0, partial=True)
    hybrid.decode(_PROMPT, n_past=60)
    assert len(whole) > 4 * len(point)
    assert len(bindings.save_sequence(hybrid.context, 0, partial=True)) == len(point)


def test_a_window_s_cache_that_is_all_there_can_be_cut_anywhere(window: Sequences) -> None:
    prompt, tail = some_tokens(120), some_tokens(3, seed=4)
    for n_keep in (1, 40, 119):
        prefill(window, prompt[:n_keep])
        cold = window.decode(tail, n_past=n_keep)
        prefill(window, prompt)
        assert window.kind.least_kept(window.first_position(), len(prompt)) == 0
        assert bindings.kv_truncate(window.context, 0, n_keep)
        np.testing.assert_allclose(window.decode(tail, n_past=n_keep), cold, atol=0.02)


def test_a_window_s_restored_state_can_be_cut_only_where_the_window_is_still_whole(window: Sequences) -> None:
    prompt, tail = some_tokens(120), some_tokens(3, seed=4)
    prefill(window, prompt)
    state = bindings.save_sequence(window.context, 0)
    least = window.kind.least_saved(len(prompt))
    assert least == len(prompt) - 1
    for n_keep in (least, least - 1):
        prefill(window, prompt[:n_keep])
        cold = window.decode(tail[:1], n_past=n_keep)
        bindings.load_sequence(window.context, 1, state)
        assert window.first_position(1) == len(prompt) - N_WINDOW
        assert window.kind.least_kept(window.first_position(1), len(prompt)) == least
        bindings.kv_truncate(window.context, 1, n_keep)
        error = np.abs(window.decode(tail[:1], n_past=n_keep, sequence=1) - cold).max()
        assert (error < 0.02) == (n_keep == least)


def test_another_sequence_may_overwrite_what_a_window_no_longer_sees(window: Sequences) -> None:
    prompt, tail = some_tokens(200), some_tokens(3, seed=4)
    bindings.kv_clear(window.context)
    window.decode(some_tokens(60, seed=1), n_past=0, sequence=0)
    window.decode(prompt, n_past=0, sequence=1)
    bindings.kv_forget(window.context, 0)
    window.decode(some_tokens(130, seed=2), n_past=0, sequence=0)
    least = window.kind.least_kept(window.first_position(1), len(prompt))
    assert 0 < least < len(prompt)
    assert bindings.kv_truncate(window.context, 1, least)
    reused = window.decode(tail, n_past=least, sequence=1)
    prefill(window, prompt[:least])
    np.testing.assert_allclose(reused, window.decode(tail, n_past=least), atol=0.02)


def test_the_least_that_can_be_kept_is_never_more_than_there_is() -> None:
    window = MemoryKind(n_swa=16, is_recurrent=False)
    assert window.least_kept(-1, 0) == 0
    assert window.least_kept(3, 10) == 10
    assert window.least_saved(16) == 0
    assert window.least_saved(17) == 16
    assert MemoryKind(n_swa=0, is_recurrent=False).least_saved(100) == 0
    assert MemoryKind(n_swa=0, is_recurrent=True).least_saved(100) == 100
    assert MemoryKind(n_swa=0, is_recurrent=True).least_kept(99, 100) == 100
