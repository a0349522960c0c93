"""The bundled texts and questions: well formed, varied, balanced, and apart from each other."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from edgeapp import paths
from edgeapp_converters import texts
from edgeapp_converters.retention import bundled_task

if TYPE_CHECKING:
    from edgeapp_converters.retention import Item

FAMILIES = {"prose", "code", "maths", "dialogue", "inspection", "multilingual"}


@pytest.fixture(scope="module")
def items() -> tuple[Item, ...]:
    return bundled_task().items


def test_there_are_enough_questions_of_many_kinds(items: tuple[Item, ...]) -> None:
    by_family = Counter(item.family for item in items)
    assert len(items) >= 300
    assert len(by_family) >= 10
    assert min(by_family.values()) >= 20


def test_every_question_has_four_different_choices_that_begin_with_a_space(items: tuple[Item, ...]) -> None:
    for item in items:
        assert len(set(item.choices)) == 4
        assert all(re.fullmatch(r" \S.*", choice) for choice in item.choices), item
        assert item.context == item.context.rstrip()


def test_every_position_is_right_equally_often(items: tuple[Item, ...]) -> None:
    by_position = Counter(item.answer for item in items)
    assert set(by_position) == {0, 1, 2, 3}
    assert max(by_position.values()) - min(by_position.values()) <= 2


def test_no_question_is_asked_twice(items: tuple[Item, ...]) -> None:
    contexts = [item.context.casefold() for item in items]
    assert len(set(contexts)) == len(contexts)


def test_the_length_of_a_choice_does_not_give_the_answer_away(items: tuple[Item, ...]) -> None:
    longest = sum(max(item.choices, key=len) == item.choices[item.answer] for item in items)
    shortest = sum(min(item.choices, key=len) == item.choices[item.answer] for item in items)
    assert 0.1 < longest / len(items) < 0.45
    assert 0.1 < shortest / len(items) < 0.45


def test_questions_do_not_follow_one_template(items: tuple[Item, ...]) -> None:
    beginnings = Counter(" ".join(item.context.split()[:2]) for item in items)
    assert max(beginnings.values()) <= 0.08 * len(items)


def test_the_task_file_is_one_object_a_line() -> None:
    lines = (paths.data_dir() / "tasks" / "everyday.jsonl").read_text(encoding="utf-8").splitlines()
    assert {tuple(json.loads(line)) for line in lines} == {("context", "choices", "answer", "family")}


def test_there_is_a_calibration_text_for_every_family() -> None:
    assert set(texts.bundled_texts()) == FAMILIES | {texts.EVALUATION}


@pytest.mark.parametrize("name", sorted(FAMILIES | {texts.EVALUATION}))
def test_a_bundled_text_has_its_size_and_repeats_no_line(name: str) -> None:
    text = texts.find(name).text
    n_bytes = len(text.encode())
    assert (35_000 if name == texts.EVALUATION else 14_000) <= n_bytes <= 48_000
    assert "\r" not in text
    assert "\ufffd" not in text
    long_lines = [line for line in text.splitlines() if len(line) > 60]
    assert len(set(long_lines)) == len(long_lines)


def test_the_evaluation_text_shares_no_passage_with_the_calibration_texts() -> None:
    evaluated = _passages(texts.find(texts.EVALUATION).text)
    calibrated = _passages(texts.find(texts.ALL).text)
    assert not evaluated & calibrated


def test_no_question_stands_in_a_calibration_text(items: tuple[Item, ...]) -> None:
    calibrated = texts.find(texts.ALL).text
    for item in items:
        if len(item.context) > 30:
            assert item.context + item.choices[item.answer] not in calibrated


def _passages(text: str) -> set[tuple[str, ...]]:
    """Return all runs of eight words."""
    words = re.findall(r"\w+", text.casefold())
    return {tuple(words[index : index + 8]) for index in range(len(words) - 7)}
