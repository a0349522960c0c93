"""A multiple-choice task, and how many of its answers a model gets right.

The model sees no options: the choice whose continuation of the context is most likely per byte counts as its
answer, as in EleutherAI's lm-evaluation-harness (`acc_norm`). A base model needs no chat template for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edgeapp import paths
from edgeapp.cleantext import clean_line
from edgeapp.errors import UsageError
from edgeapp.runtime import measuring
from edgeapp_converters.events import StageProgress
from edgeapp_converters.statistics import log_softmax

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from edgeapp.runtime.worker_client import WorkerClient
    from edgeapp_converters.events import Report

BUNDLED = "everyday"
_MAX_FILE_BYTES = 16 << 20
_MAX_ITEMS = 10_000
_MAX_CHOICES = 26
_MAX_ITEM_CHARS = 4000


class Item(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One question: `choices[answer]` continues `context`."""

    context: str
    choices: tuple[str, ...]
    answer: int
    family: str = ""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Items under the name by which a report mentions them."""

    name: str
    items: tuple[Item, ...]


@dataclass(frozen=True, kw_only=True)
class TokenItem:
    """An item's choices as tokens, context included, which differ from index `n_shared` on."""

    sequences: tuple[tuple[int, ...], ...]
    n_shared: int
    choice_bytes: tuple[int, ...]
    answer: int


def bundled_task() -> Task:
    """Return the task that comes with edgeapp."""
    return load_task(BUNDLED)


def load_task(name_or_path: str) -> Task:
    """Return a bundled task or the one in a .jsonl file. Raise `UsageError` for anything wrong with it."""
    bundled = paths.data_dir() / "tasks" / f"{name_or_path}.jsonl"
    path = bundled if bundled.is_file() else Path(name_or_path).expanduser()
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in bundled.parent.glob("*.jsonl")))
        raise UsageError(
            f"There is no task {clean_line(name_or_path, max_chars=200)!r}.",
            hint=f"Give a .jsonl file, or one of: {names}.",
        )
    return Task(name=clean_line(path.stem, max_chars=80), items=_items(path))


def _items(path: Path) -> tuple[Item, ...]:
    shown = clean_line(str(path), max_chars=300)
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise UsageError(f"{shown} has more than {_MAX_FILE_BYTES >> 20} MiB.", hint="Give fewer items.")
    lines = [line for line in path.read_bytes().splitlines() if line.strip()]
    if not 0 < len(lines) <= _MAX_ITEMS:
        raise UsageError(f"{shown} has {len(lines)} items; 1 to {_MAX_ITEMS} are accepted.")
    return tuple(_item(line, f"{shown}, item {number}") for number, line in enumerate(lines, 1))


def _item(line: bytes, where: str) -> Item:
    try:
        item = msgspec.json.decode(line, type=Item)
    except msgspec.MsgspecError as problem:
        raise UsageError(f"{where}: {clean_line(str(problem), max_chars=200)}.", hint=_FORMAT) from problem
    if not item.context or not all(item.choices):
        raise UsageError(f"{where} has an empty context or choice.", hint=_FORMAT)
    if not 1 < len(set(item.choices)) == len(item.choices) <= _MAX_CHOICES:
        raise UsageError(f"{where} needs 2 to {_MAX_CHOICES} different choices.", hint=_FORMAT)
    if not 0 <= item.answer < len(item.choices):
        raise UsageError(f"{where}: there is no choice number {item.answer}, counted from 0.", hint=_FORMAT)
    if len(item.context) + max(map(len, item.choices)) > _MAX_ITEM_CHARS:
        raise UsageError(f"{where} has more than {_MAX_ITEM_CHARS} characters.", hint="Shorten it.")
    return item


_FORMAT = 'Each line is {"context": "…", "choices": [" …", " …"], "answer": 0, "family": "…"}.'


async def tokenize_task(client: WorkerClient, task: Task) -> tuple[TokenItem, ...]:
    """Return the items in the model's tokens. Raise `EdgeappError`."""
    bos = (await client.load()).bos
    start = () if bos is None else (bos,)
    items: list[TokenItem] = []
    for item in task.items:
        context = start + await client.tokenize(item.context)
        wholes = [start + await client.tokenize(item.context + choice) for choice in item.choices]
        items.append(
            TokenItem(
                sequences=tuple(wholes),
                # A choice can change how the end of the context is cut into tokens.
                n_shared=max(1, min(_n_common(context, whole) for whole in wholes)),
                choice_bytes=tuple(len(choice.encode()) for choice in item.choices),
                answer=item.answer,
            )
        )
    return tuple(items)


def _n_common(left: Sequence[int], right: Sequence[int]) -> int:
    pairs = zip(left, right[:-1], strict=False)  # at least one token is left to be scored
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


async def answer_task(
    client: WorkerClient, items: Sequence[TokenItem], *, label: str, report: Report
) -> NDArray[np.bool_]:
    """Return for each item whether the model chose the right answer. Raise `EdgeappError`."""
    right = np.zeros(len(items), dtype=np.bool_)
    for number, item in enumerate(items):
        report(_progress(number, len(items), label))
        scores = await _log_likelihoods(client, item) / np.array(item.choice_bytes)
        right[number] = int(scores.argmax()) == item.answer
    report(_progress(len(items), len(items), label))
    return right


def _progress(done: int, total: int, label: str) -> StageProgress:
    return StageProgress(stage="comparing", done=done, total=total, unit="steps", label=label)


async def _log_likelihoods(client: WorkerClient, item: TokenItem) -> NDArray[np.float64]:
    """Return ln p of each choice. The context is computed once, its last token's logits begin all choices."""
    n_shared = item.n_shared
    context = item.sequences[0][:n_shared]
    async with measuring.evaluate(client, context, first_logits=n_shared - 1) as logits:
        first = log_softmax(np.asarray(logits[0], dtype=np.float64))
    totals = np.array([first[sequence[n_shared]] for sequence in item.sequences])
    for choice, sequence in enumerate(item.sequences):
        if len(sequence) == n_shared + 1:
            continue
        async with measuring.evaluate(
            client, sequence[:-1], first_logits=n_shared, reuse_prefix=True
        ) as logits:
            rows = log_softmax(np.asarray(logits, dtype=np.float64))
        totals[choice] += rows[np.arange(len(rows)), list(sequence[n_shared + 1 :])].sum()
    return totals
