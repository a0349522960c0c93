"""A multiple-choice task: reading it, and which choice a model takes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgeapp import paths
from edgeapp.errors import UsageError
from edgeapp.protocol import Load
from edgeapp.runtime import measuring
from edgeapp.runtime.worker_client import WorkerClient
from edgeapp_converters.retention import (
    Item,
    Task,
    _log_likelihoods,
    answer_task,
    load_task,
    tokenize_task,
)
from edgeapp_converters.statistics import log_softmax
from tests.tiny_moe import write_tiny_moe

if TYPE_CHECKING:
    from pathlib import Path

GOOD: dict[str, object] = {
    "context": "One and one is",
    "choices": [" two", " ten"],
    "answer": 0,
    "family": "x",
}
ITEMS = tuple(
    Item(
        context=context,
        # For a model that knows nothing, more tokens are less likely, and fewer bytes per token cost more.
        choices=(" inter", " 12", " an unusual continuation", " at")
        if number % 2
        else (" cat", " dog", " the", " qzx"),
        answer=number % 4,
    )
    for number, context in enumerate(
        (
            "Hello",
            "The sum of all",
            "def f(x):\n    return",
            "Once upon a time there was",
            "In",
            "On",
            "A",
            "B",
        )
    )
)


def write_task(path: Path, *items: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def test_a_task_is_read_from_a_file_and_named_for_it(tmp_path: Path) -> None:
    task = load_task(str(write_task(tmp_path / "sums.jsonl", GOOD, GOOD)))
    assert task.name == "sums"
    assert len(task.items) == 2
    assert task.items[0].choices == (" two", " ten")


def test_a_bundled_task_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tasks").mkdir()
    write_task(tmp_path / "tasks" / "sums.jsonl", GOOD)
    monkeypatch.setattr(paths, "data_dir", lambda: tmp_path)
    assert load_task("sums").name == "sums"
    with pytest.raises(UsageError, match="no task 'sum'") as caught:
        load_task("sum")
    assert "sums" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer": 2}, "no choice number 2"),
        ({"answer": -1}, "no choice number -1"),
        ({"answer": "0"}, "Expected `int`"),
        ({"choices": [" two"]}, "different choices"),
        ({"choices": [" two", " two"]}, "different choices"),
        ({"choices": [" two", ""]}, "empty context or choice"),
        ({"context": ""}, "empty context or choice"),
        ({"context": "x" * 5000}, "more than 4000 characters"),
        ({"more": 1}, "unknown field"),
    ],
)
def test_an_item_that_makes_no_sense_is_refused_by_its_number(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    path = write_task(tmp_path / "task.jsonl", GOOD, GOOD | change)
    with pytest.raises(UsageError, match=f"item 2.*{said}"):
        load_task(str(path))


def test_a_file_without_items_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="0 items"):
        load_task(str(write_task(tmp_path / "task.jsonl")))


@pytest.mark.parametrize("add_bos", [False, True])
async def test_the_likeliest_choice_per_byte_is_the_answer(tmp_path: Path, *, add_bos: bool) -> None:
    model = write_tiny_moe(tmp_path / "model.gguf", add_bos=add_bos)
    client = WorkerClient(Load(id=0, path=str(model), n_ctx=256, n_threads=1, n_outputs=64))
    try:
        start = (await client.load()).bos
        chosen = []
        for item in ITEMS:
            scores = []
            for choice in item.choices:
                context = await client.tokenize(item.context)
                whole = await client.tokenize(item.context + choice)
                assert whole[: len(context)] == context
                prefix = () if start is None else (start,)
                async with measuring.evaluate(client, prefix + whole) as logits:
                    log_p = log_softmax(np.array(logits, dtype=np.float64))
                first = len(prefix) + len(context)
                total = sum(log_p[at - 1, token] for at, token in enumerate(prefix + whole) if at >= first)
                scores.append(total / len(choice.encode()))
            chosen.append(int(np.argmax(scores)))
            (tokens,) = await tokenize_task(client, Task(name="x", items=(item,)))
            per_byte = await _log_likelihoods(client, tokens) / np.array(tokens.choice_bytes)
            np.testing.assert_allclose(per_byte, scores, rtol=1e-2)
        task = Task(name="x", items=ITEMS)
        right = await answer_task(
            client, await tokenize_task(client, task), label="", report=lambda _event: None
        )
    finally:
        await client.aclose()
    assert right.tolist() == [choice == item.answer for choice, item in zip(chosen, ITEMS, strict=True)]
    assert len(set(chosen)) > 1
    assert 0 < right.sum() < len(ITEMS)


async def test_a_choice_that_changes_the_end_of_the_context_is_scored_from_there(tiny_moe: Path) -> None:
    client = WorkerClient(Load(id=0, path=str(tiny_moe), n_ctx=256, n_threads=1))
    try:
        item = Item(context="He could not believ", choices=("e it", "er"), answer=0)
        (tokens,) = await tokenize_task(client, Task(name="x", items=(item,)))
        context = await client.tokenize(item.context)
    finally:
        await client.aclose()
    assert tokens.n_shared < len(context)
    assert all(whole[: tokens.n_shared] == context[: tokens.n_shared] for whole in tokens.sequences)
    assert all(len(whole) > tokens.n_shared for whole in tokens.sequences)
    assert tokens.choice_bytes == (4, 2)
